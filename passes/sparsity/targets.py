"""Weights that can lose some of their numbers, and what is known of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.ir.values import Array, attribute_float, constant, is_op
from whet.passes.quantization.algorithms.approximation import Doubles, Floats
from whet.passes.quantization.layers import Weight

__all__ = ["Target", "set_bias", "set_weight", "with_weights"]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A weight as a matrix ``[outputs, inputs]``, with the Gram matrices of its inputs by group."""

    weight: Weight
    matrix: Floats
    grams: tuple[Doubles, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of the weight."""
        return self.weight.value.name or ""

    @property
    def node(self) -> onnx_ir.Node:
        """Return the first product, which is what the user knows the weight by."""
        return self.weight.products[0]

    @property
    def groups(self) -> list[slice]:
        """Return the outputs of each group."""
        size = len(self.matrix) // self.weight.groups
        return [slice(k * size, (k + 1) * size) for k in range(self.weight.groups)]

    @property
    def changed(self) -> tuple[onnx_ir.Node, ...]:
        """Return the nodes that see another weight."""
        return self.weight.readers

    @property
    def gathered_bytes(self) -> int:
        """Return the bytes of three products of its inputs, to fit on and to judge by."""
        return 6 * 8 * self.weight.groups * (self.matrix.shape[1] + 1) ** 2

    def bias(self) -> Array | None:
        """Return the bias that may be changed, zeros where there is room for one; None where there is not."""
        if len(self.weight.readers) > 1 or not is_op(self.node, "Conv", "Gemm"):
            return None
        scales = [attribute_float(self.node, name, 1.0) for name in ("alpha", "beta")]
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if scales != [1.0, 1.0]:
            return None
        if value is None:
            return np.zeros(len(self.matrix), np.float32)
        array = constant(value)
        return array if array is not None and array.shape == (len(self.matrix),) else None

    def stored(self, matrix: Array) -> Array:
        """Return a matrix in the shape that the weight has in the model."""
        array = matrix.T if self.weight.transposed else matrix.reshape(self.weight.shape)
        return np.ascontiguousarray(array, np.float32)


def with_weights(
    model: onnx_ir.Model,
    targets: Sequence[Target],
    matrices: Mapping[str, Array],
    biases: Mapping[str, Array] | None = None,
) -> onnx_ir.Model:
    """Return a copy of the model with other numbers in these weights, and in the biases of their readers."""
    copy = model.clone()
    nodes = {node.name: node for node in copy.graph}
    for target in targets:
        if target.name in matrices:
            set_weight(copy, target.name, target.stored(matrices[target.name]))
        if biases and target.name in biases:
            set_bias(copy, nodes[target.node.name], biases[target.name])
    return copy


def set_weight(model: onnx_ir.Model, name: str, array: Array) -> None:
    """Give an initializer other numbers."""
    model.graph.initializers[name].const_value = onnx_ir.tensor(array, name=name)


def set_bias(model: onnx_ir.Model, node: onnx_ir.Node, bias: Array) -> None:
    """Give a Conv or Gemm another bias, under a name of its own."""
    name = f"{node.name}.whet.bias"
    array = np.asarray(bias, np.float32)
    tensor = onnx_ir.tensor(array, name=name)
    value = onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
        const_value=tensor,
    )
    model.graph.initializers.pop(name, None)
    model.graph.register_initializer(value)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
