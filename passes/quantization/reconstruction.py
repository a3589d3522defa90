"""Round a model's layers one after the other, each to the outputs it has in the float model.

A layer is fitted on the inputs that the model gives it once everything before is quantized, weights and activations, so
that it makes up for what they lost (Nagel et al., 2020, section 3.5).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant, is_constant, is_op
from whet.passes.quantization.algorithms.adaround import Schedule, adaround
from whet.passes.quantization.algorithms.approximation import Blocks, Floats
from whet.passes.quantization.algorithms.arrays import Affine

if TYPE_CHECKING:
    import torch
    import torch.fx

__all__ = ["WeightedLayer", "read_layer", "reconstruct"]

Feeds = Mapping[str, Array]
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish")


@dataclasses.dataclass(frozen=True)
class WeightedLayer:
    """A Conv, MatMul or Gemm with a fixed weight, and the activation that is the only reader of its output."""

    node: onnx_ir.Node
    tail: onnx_ir.Node | None
    transposed: bool
    """Whether the weight is stored as ``[inputs, outputs]``."""

    @property
    def weight(self) -> str:
        """Return the name of the weight."""
        return _name(self.node.inputs[1])

    @property
    def output(self) -> str:
        """Return the name of the value behind the activation."""
        return _name((self.tail or self.node).outputs[0])

    @property
    def axis(self) -> int:
        """Return the axis of the output that counts channels."""
        return 1 if self.node.op_type == "Conv" else -1

    def matrix(self) -> Floats:
        """Return the weight as ``[outputs, inputs]``."""
        array = constant(self.node.inputs[1])
        assert array is not None
        rows = array.T if self.transposed else array.reshape(len(array), -1)
        return np.ascontiguousarray(rows, np.float32)

    def stored(self, matrix: Array) -> Array:
        """Return a matrix ``[outputs, inputs]`` in the shape of the weight."""
        array = constant(self.node.inputs[1])
        assert array is not None
        return np.ascontiguousarray(matrix.T if self.transposed else matrix.reshape(array.shape))


def read_layer(node: onnx_ir.Node) -> WeightedLayer:
    """Return the layer of a node; raises Mismatch with what is not supported."""
    if not is_op(node, "Conv", "MatMul", "Gemm"):
        raise Mismatch(f"{node.op_type} is no layer with a weight")
    array = constant(node.inputs[1])
    if array is None or array.dtype != np.float32:
        raise Mismatch("the weight is not a constant of float32")
    if node.op_type != "Conv" and array.ndim != 2:
        raise Mismatch(f"the weight has {array.ndim} dimensions, not 2")
    transposed = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not attribute_int(node, "transB", 0)
    )
    if any(v is not None and not is_constant(v) for v in node.inputs[2:]):
        raise Mismatch("the bias is not a constant")
    return WeightedLayer(node, _activation(node.outputs[0]), transposed)


def _activation(value: onnx_ir.Value) -> onnx_ir.Node | None:
    """Return the activation that is the only reader of a value."""
    readers = list(value.consumers())
    if len(readers) != 1 or value.is_graph_output() or not is_op(readers[0], *_ACTIVATIONS):
        return None
    rest = readers[0].inputs[1:]
    return readers[0] if all(v is None or is_constant(v) for v in rest) else None


def reconstruct(
    model: onnx_ir.Model,
    batches: Sequence[Feeds],
    start: Mapping[str, Callable[[Floats], Blocks]],
    *,
    activations: Mapping[str, Affine] | None = None,
    schedule: Schedule | None = None,
) -> dict[str, Blocks]:
    """Return the codes of the layers in ``start``, found by AdaRound in graph order, by the name of the node.

    ``start`` gives for the name of a node what its weight ``[outputs, inputs]`` is rounded to at first; layers that are
    not in it stay in float32. ``activations`` are the grids that values are rounded to in the quantized model. Raises
    Mismatch for a node that is no layer with a weight.
    """
    twins = _Twins(model, batches, activations or {})
    found: dict[str, Blocks] = {}
    for node in model.graph:
        name = node.name or ""
        if name not in start:
            continue
        layer = read_layer(node)
        matrix = layer.matrix()
        blocks = adaround(
            matrix,
            start[name](matrix),
            twins.quantized(_name(node.inputs[0])),
            twins.exact(layer.output),
            twins.function(layer),
            axis=layer.axis,
            schedule=schedule,
        )
        twins.set(layer, blocks)
        found[name] = blocks
    return found


class _Twins:
    """The model in float, and the model as far as it is quantized."""

    def __init__(
        self, model: onnx_ir.Model, batches: Sequence[Feeds], activations: Mapping[str, Affine]
    ) -> None:
        from whet.ir.twin import parameter_paths, to_fx, value_nodes

        self._exact, self._rounded = to_fx(model), to_fx(model)
        self._nodes = value_nodes(self._rounded)
        self._paths = parameter_paths(model)
        names = [_name(v) for v in model.graph.inputs]
        self._batches = [tuple(batch[name] for name in names if name in batch) for batch in batches]
        made = self._nodes.keys()
        self._grids = {n: _rounder(grid) for n, grid in activations.items() if n in made}

    def exact(self, name: str) -> Array:
        """Return a value of the float model on all batches."""
        return _values(self._exact, self._batches, name, {})

    def quantized(self, name: str) -> Array:
        """Return a value of the quantized model on all batches, rounded to its grid."""
        return _values(self._rounded, self._batches, name, self._grids)

    def set(self, layer: WeightedLayer, blocks: Blocks) -> None:
        """Put the rounded weight into the quantized model."""
        import torch

        parameter = self._rounded.get_parameter(self._paths[layer.weight])
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(layer.stored(blocks.values())))

    def function(
        self, layer: WeightedLayer
    ) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
        """Return the layer with its bias and activation, as a function of inputs and a matrix."""
        call = self._nodes[_name(layer.node.outputs[0])]
        tail = None if layer.tail is None else self._nodes[layer.output]
        array = constant(layer.node.inputs[1])
        assert array is not None
        shape = array.shape
        rest = _constants(layer.node.inputs[2:])
        behind = [] if layer.tail is None else _constants(layer.tail.inputs[1:])

        def run(x: "torch.Tensor", matrix: "torch.Tensor") -> "torch.Tensor":
            weight = matrix.T if layer.transposed else matrix.reshape(shape)
            result = _call(call, [x, weight, *rest], call.kwargs)
            return result if tail is None else _call(tail, [result, *behind], tail.kwargs)

        return run


def _constants(values: Sequence[onnx_ir.Value | None]) -> "list[torch.Tensor | None]":
    from whet.ir.twin import from_numpy

    arrays = [constant(v) for v in values]
    return [None if array is None else from_numpy(array) for array in arrays]


def _call(node: "torch.fx.Node", args: Sequence[Any], kwargs: Mapping[str, Any]) -> "torch.Tensor":
    assert callable(node.target)
    result: torch.Tensor = node.target(*args, **kwargs)
    return result


def _rounder(grid: Affine) -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return a function that rounds a tensor to a grid."""
    import torch

    def run(x: torch.Tensor) -> torch.Tensor:
        scale, zero = (
            torch.from_numpy(grid.along(np.asarray(a, np.float32), x.ndim).copy())
            for a in (grid.scale, grid.zero)
        )
        steps = torch.clamp(torch.round(x / scale) + zero, grid.format.low, grid.format.high)
        return (steps - zero) * scale

    return run


def _values(
    twin: "torch.fx.GraphModule",
    batches: Sequence[tuple[Array, ...]],
    name: str,
    grids: "Mapping[str, Callable[[torch.Tensor], torch.Tensor]]",
) -> Array:
    """Return a value on all batches; values with a grid are rounded on the way."""
    return np.concatenate(list(_each(twin, batches, name, grids)))


def _each(
    twin: "torch.fx.GraphModule",
    batches: Sequence[tuple[Array, ...]],
    name: str,
    grids: "Mapping[str, Callable[[torch.Tensor], torch.Tensor]]",
) -> Iterator[Array]:
    import torch

    from whet.ir.twin import from_numpy, run_observed, to_numpy

    for batch in batches:
        seen: list[Array] = []

        def look(x: torch.Tensor, seen: list[Array] = seen) -> torch.Tensor:
            x = grids[name](x) if name in grids else x
            seen.append(to_numpy(x))
            return x

        with torch.no_grad():
            run_observed(twin, tuple(from_numpy(a) for a in batch), {**grids, name: look})
        yield seen[0]


def _name(value: onnx_ir.Value | None) -> str:
    return "" if value is None else value.name or ""
