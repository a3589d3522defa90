"""Weights of a graph as layers: matrices [outputs, inputs] with the Gram matrices of what they are multiplied with."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.statistics import Gram, GramMatrix, PatchGram, Request, Statistics
from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant, is_op, static_shape
from whet.passes.quantization.algorithms.approximation import Doubles, Layer
from whet.passes.workbench import Context

__all__ = ["Weight", "find_weights", "layers_of", "measure_grams"]

Feeds = Mapping[str, Array]
Grams = Mapping[onnx_ir.Value, Sequence[Doubles]]
_READERS = ("MatMul", "Gemm", "Conv", "Gather")
_PLACES = 256
"""Patches of each sample that a Gram matrix is made of, evenly spread."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """A float32 weight and everything that reads it."""

    value: onnx_ir.Value
    readers: tuple[onnx_ir.Node, ...]
    transposed: bool
    """Whether the weight is stored as [inputs, outputs]."""
    groups: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the weight as it is stored."""
        shape = static_shape(self.value)
        assert shape is not None
        return shape

    def matrix(self) -> Array:
        """Return ``[outputs, inputs]``; the outputs of a grouped convolution one group after the other."""
        array = constant(self.value)
        assert array is not None
        return self.arranged(array)

    def arranged(self, array: Array) -> Array:
        """Return what has the shape of the weight as ``[outputs, inputs]``."""
        return array.T if self.transposed else array.reshape(len(array), -1)

    @property
    def products(self) -> tuple[onnx_ir.Node, ...]:
        """Return the readers that multiply with it."""
        return tuple(node for node in self.readers if node.op_type != "Gather")


def find_weights(
    nodes: Sequence[onnx_ir.Node],
) -> tuple[list[Weight], dict[onnx_ir.Node, str]]:
    """Return the weights of MatMul, Gemm and Conv, and why some of these nodes have none to offer."""
    found: dict[onnx_ir.Value, Weight] = {}
    refused: dict[onnx_ir.Node, str] = {}
    for node in nodes:
        if not is_op(node, "MatMul", "Gemm", "Conv"):
            continue
        try:
            value = _fixed(node)
            if value not in found:
                found[value] = _weight(value, node)
        except Mismatch as reason:
            refused[node] = str(reason)
    return list(found.values()), refused


def _fixed(node: onnx_ir.Node) -> onnx_ir.Value:
    value = node.inputs[1]
    if value is None or constant(value) is None:
        raise Mismatch("the second operand is not a constant")
    if value.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the weight is {value.dtype}, not float32")
    shape = static_shape(value) or ()
    if 0 in shape or (len(shape) != 2 if node.op_type != "Conv" else len(shape) < 3):
        raise Mismatch(f"the weight has shape {list(shape)}")
    return value


def _weight(value: onnx_ir.Value, node: onnx_ir.Node) -> Weight:
    if value.is_graph_output():
        raise Mismatch("the weight is an output of the model")
    readers = tuple(value.consumers())
    forms = {_form(reader, value) for reader in readers}
    forms.discard(None)
    if len(forms) > 1:
        raise Mismatch("its readers multiply with different sides of the weight")
    form = next(iter(forms))
    assert form is not None
    return Weight(value, readers, *form)


def _form(reader: onnx_ir.Node, value: onnx_ir.Value) -> tuple[bool, int] | None:
    """Return whether the reader sees the weight transposed, and its groups; None for a lookup."""
    if not is_op(reader, *_READERS) or reader.graph is not value.graph:
        raise Mismatch(f"the weight is also read by {reader.op_type} '{reader.name}'")
    if reader.op_type == "Gather" and reader.inputs[0] is value:
        return None
    if reader.op_type == "Gather" or list(reader.inputs).index(value) != 1:
        raise Mismatch(f"{reader.op_type} '{reader.name}' reads it as its other operand")
    if reader.op_type == "Conv":
        return False, attribute_int(reader, "group", 1)
    return not attribute_int(reader, "transB", 0), 1


def layers_of(weight: Weight, fit: Grams, held_out: Grams) -> list[Layer]:
    """Return one layer for each group."""
    parts = np.split(np.ascontiguousarray(weight.matrix(), np.float32), weight.groups)
    grams = fit.get(weight.value, [None] * weight.groups)
    judges = held_out.get(weight.value, [None] * weight.groups)
    return [
        Layer(part, gram, held_out=judge)
        for part, gram, judge in zip(parts, grams, judges, strict=True)
    ]


def measure_grams(
    model: onnx_ir.Model, weights: Sequence[Weight], context: Context, batches: Sequence[Feeds]
) -> dict[onnx_ir.Value, list[Doubles]]:
    """Return the mean of x xᵀ over all products of each weight, for each group; empty without batches.

    Raises CannotRun, and CalibrationError where a value is not finite.
    """
    if not batches or not weights:
        return {}
    asked = {node: _request(node) for weight in weights for node in weight.products}
    data = dataclasses.replace(context, calibration=batches)
    seen = Statistics(frozenset(asked.values())).measure(model, data)
    found: dict[onnx_ir.Value, list[Doubles]] = {}
    for weight in weights:
        parts = [_grams(seen.of(*asked[node])) for node in weight.products]
        found[weight.value] = [_mean(group) for group in zip(*parts, strict=True)]
    return found


def _request(node: onnx_ir.Node) -> Request:
    operand = node.inputs[0]
    assert operand is not None
    if node.op_type == "Conv":
        return operand.name or "", PatchGram.of(node, exact=False, per_sample=_PLACES)
    axis = 0 if attribute_int(node, "transA", 0) else -1
    return operand.name or "", Gram(axis, exact=False)


def _grams(found: GramMatrix | tuple[GramMatrix, ...]) -> tuple[GramMatrix, ...]:
    return found if isinstance(found, tuple) else (found,)


def _mean(grams: Sequence[GramMatrix]) -> Doubles:
    rows = max(1, sum(gram.rows for gram in grams))
    return np.asarray(sum(gram.matrix * (gram.rows / rows) for gram in grams))
