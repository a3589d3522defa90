"""Steps of a network that can run on integers: an operator, and the Relu or Clip that its output grid absorbs."""

import dataclasses
import enum
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_float,
    attribute_int,
    attribute_string,
    constant,
    is_constant,
    is_op,
    rank,
)

__all__ = ["Kind", "Step", "find_steps"]


class Kind(enum.Enum):
    """Say how a step computes with integers."""

    PRODUCT = "weights in integers, a bias in 32 bits, an output with a grid of its own"
    FUNCTION = "data in integers, an output with a grid of its own"
    MOVE = "integers go where they belong; the output has the grid of the input"


_KINDS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "MatMul", "Gemm"), Kind.PRODUCT),
    **dict.fromkeys(
        ("Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"),
        Kind.FUNCTION,
    ),
    **dict.fromkeys(
        (
            *("MaxPool", "Slice", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
            *("DepthToSpace", "SpaceToDepth", "Resize", "Split", "Relu"),
        ),
        Kind.MOVE,
    ),
}
_SEVERAL = ("Add", "Mul", "Concat")
"""Operators whose inputs are data one and all."""
_DRAWING = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator, its data operands, and the activation behind it."""

    node: onnx_ir.Node
    tail: onnx_ir.Node | None
    """A Relu or Clip that is the only reader."""
    data: tuple[int, ...]
    """Which inputs are data; the others are weights, sizes, or numbers that are added or multiplied."""
    added: onnx_ir.Node | None = None
    """The Add of a bias that is the only reader of a MatMul of two dimensions: together they are one Gemm."""

    @property
    def kind(self) -> Kind:
        """Return how it computes with integers."""
        return _KINDS[self.node.op_type]

    @property
    def has_weights(self) -> bool:
        """Tell whether the step has a weight and draws the steps around it along."""
        return self.kind is Kind.PRODUCT

    @property
    def may_stay_wide(self) -> bool:
        """Tell whether its kernel can write floats at no cost."""
        return self.node.op_type in ("MatMul", "Gemm") and self.tail is None

    @property
    def reads(self) -> tuple[onnx_ir.Value, ...]:
        """Return the data operands as they are now."""
        return tuple(v for k in self.data if (v := self.node.inputs[k]) is not None)

    @property
    def writes(self) -> tuple[onnx_ir.Value, ...]:
        """Return what others read of the step."""
        return tuple((self.tail or self.added or self.node).outputs)

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """Return the nodes that go, the outermost first."""
        return tuple(n for n in (self.tail, self.added, self.node) if n is not None)


def find_steps(nodes: Sequence[onnx_ir.Node]) -> tuple[list[Step], dict[onnx_ir.Node, str]]:
    """Return the steps among ``nodes``, and the reasons why those with weights are not among them.

    A Relu that a step absorbs is no step of its own.
    """
    steps: list[Step] = []
    refused: dict[onnx_ir.Node, str] = {}
    absorbed: set[onnx_ir.Node] = set()
    for node in nodes:
        if node in absorbed or not is_op(node, *_KINDS):
            continue
        try:
            step = _step(node)
        except Mismatch as reason:
            if node.op_type in _DRAWING:
                refused[node] = str(reason)
            continue
        steps.append(step)
        absorbed.update(step.nodes)
    return steps, refused


def _step(node: onnx_ir.Node) -> Step:
    data = _data(node)
    reads = [node.inputs[k] for k in data]
    for value in reads:
        if value is None or value.dtype != onnx_ir.DataType.FLOAT:
            raise Mismatch(f"the operand is {value and value.dtype}, not float32")
        if is_op(value.producer(), "DequantizeLinear"):
            raise Mismatch("it reads integers already")
    if len(node.outputs) > 1 and node.op_type != "Split":
        raise Mismatch("it has a second output")
    if _KINDS[node.op_type] is Kind.PRODUCT:
        _check_weights(node)
    if _KINDS[node.op_type] is Kind.MOVE:
        _check_move(node)
        return Step(node, None, data)
    added = _bias_behind(node) if node.op_type == "MatMul" else None
    return Step(node, _tail(added or node), data, added)


def _bias_behind(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the addition of a number per column that is the only reader of a product of two matrices."""
    output = node.outputs[0]
    readers = list(output.consumers())
    sole = len(output.uses()) == 1 and not output.is_graph_output()
    if rank(node.inputs[0]) != 2 or not sole or not is_op(readers[0], "Add"):
        return None
    if readers[0].graph is not node.graph:
        return None
    weights = constant(node.inputs[1])
    found = [a for v in readers[0].inputs if (a := constant(v)) is not None]
    if weights is None or len(found) != 1 or found[0].dtype != np.float32:
        return None
    fits = found[0].shape in ((weights.shape[1],), (1, weights.shape[1]))
    return readers[0] if fits and np.isfinite(found[0]).all() else None


def _data(node: onnx_ir.Node) -> tuple[int, ...]:
    if node.op_type not in _SEVERAL:
        if not node.inputs or node.inputs[0] is None or is_constant(node.inputs[0]):
            raise Mismatch("the first operand is a constant")
        return (0,)
    found = tuple(k for k, v in enumerate(node.inputs) if not is_constant(v))
    if not found:
        raise Mismatch("all operands are constants")
    for k, value in enumerate(node.inputs):
        array = None if k in found else constant(value)
        if array is not None and (array.dtype != np.float32 or not np.isfinite(array).all()):
            raise Mismatch("an operand is a constant without a grid")
    return found


def _check_weights(node: onnx_ir.Node) -> None:
    weights = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weights is None or weights.dtype != np.float32:
        raise Mismatch("the weight is not a float32 constant")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant(bias) is None:
        raise Mismatch("the bias is not a constant")
    if node.op_type in ("MatMul", "Gemm") and weights.ndim != 2:
        raise Mismatch(f"the weight has {weights.ndim} dimensions, not 2")
    if node.op_type == "ConvTranspose" and attribute_int(node, "group", 1) > 1:
        raise Mismatch("channels in groups have no scale of their own in a transposed convolution")
    if node.op_type == "Gemm":
        _check_gemm(node, constant(bias))


def _check_gemm(node: onnx_ir.Node, bias: Array | None) -> None:
    if attribute_int(node, "transA", 0):
        raise Mismatch("the activation is transposed")
    factors = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    if factors != (1.0, 1.0):
        raise Mismatch(f"alpha and beta are {factors[0]:g} and {factors[1]:g}, not 1")
    if bias is not None and bias.ndim != 1:
        raise Mismatch(f"the bias has {bias.ndim} dimensions, not 1")


def _check_move(node: onnx_ir.Node) -> None:
    if node.op_type == "Pad":
        filling = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        filled = len(node.inputs) > 2 and node.inputs[2] is not None
        if filled and (filling is None or np.any(filling)):
            raise Mismatch("it pads with other values than zeros")
        if attribute_string(node, "mode", "constant") not in ("constant", "edge", "reflect"):
            raise Mismatch("it pads in a way of its own")
    if node.op_type == "Resize" and (
        attribute_string(node, "mode", "nearest") not in ("nearest", "linear")
        or attribute_string(node, "coordinate_transformation_mode", "half_pixel")
        == "tf_crop_and_resize"
    ):
        raise Mismatch("it can leave the range of its input")


def _tail(node: onnx_ir.Node) -> onnx_ir.Node | None:
    output = node.outputs[0]
    readers = list(output.consumers())
    if len(readers) != 1 or output.is_graph_output() or readers[0].graph is not node.graph:
        return None
    reader = readers[0]
    if is_op(reader, "Relu"):
        return reader
    if is_op(reader, "Clip") and _contains_zero(reader):
        return reader
    return None


def _contains_zero(clip: onnx_ir.Node) -> bool:
    """Tell whether a grid, which always holds zero, stays inside the limits of the Clip."""
    ends = [clip.inputs[k] if k < len(clip.inputs) else None for k in (1, 2)]
    arrays = [constant(v) for v in ends]
    if any(v is not None and a is None for v, a in zip(ends, arrays, strict=True)):
        return False
    low = -math.inf if arrays[0] is None else float(arrays[0].astype(np.float64))
    high = math.inf if arrays[1] is None else float(arrays[1].astype(np.float64))
    return low <= 0 <= high and ends[0] is not clip.inputs[0]
