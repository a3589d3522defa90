"""Steps of a network that have an integer kernel: an operator, and the Relu or Clip that its output grid absorbs."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, attribute_string, constant, dimensions, is_constant, is_op

__all__ = ["Step", "find_steps", "work_of"]

_MOVES = ("Slice", "Pad")
"""Operators that only move values (Pad adds zeros): their output has the grid of their input."""
_UNARY = ("MaxPool", "GlobalAveragePool", "AveragePool", *_MOVES)


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator, its data operands, and the activation behind it."""

    node: onnx_ir.Node
    tail: onnx_ir.Node | None
    """A Relu or Clip that is the only reader."""
    reads: tuple[onnx_ir.Value, ...]
    writes: onnx_ir.Value

    @property
    def is_convolution(self) -> bool:
        """Tell whether the step has weights."""
        return self.node.op_type == "Conv"

    @property
    def keeps_grid(self) -> bool:
        """Tell whether the output has the very grid of the input."""
        return self.node.op_type in ("MaxPool", *_MOVES)

    @property
    def rest(self) -> tuple[onnx_ir.Value | None, ...]:
        """Return the operands that are neither data nor weights of a convolution."""
        return () if self.is_convolution else tuple(self.node.inputs[len(self.reads) :])

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """Return the nodes that go, the outermost first."""
        return (self.node,) if self.tail is None else (self.tail, self.node)


def find_steps(nodes: Sequence[onnx_ir.Node]) -> tuple[list[Step], dict[onnx_ir.Node, str]]:
    """Return the steps among ``nodes``, and the reasons why convolutions are not among them."""
    steps: list[Step] = []
    refused: dict[onnx_ir.Node, str] = {}
    for node in nodes:
        if not is_op(node, "Conv", "Add", *_UNARY):
            continue
        try:
            steps.append(_step(node))
        except Mismatch as reason:
            if node.op_type == "Conv":
                refused[node] = str(reason)
    return steps, refused


def _step(node: onnx_ir.Node) -> Step:
    reads = tuple(v for v in node.inputs[: 2 if node.op_type == "Add" else 1] if v is not None)
    if any(v.dtype != onnx_ir.DataType.FLOAT for v in reads):
        raise Mismatch(f"the operand is {reads[0].dtype}, not float32")
    if len(node.outputs) > 1:
        raise Mismatch("it has a second output")
    if node.op_type == "Conv":
        _check_weights(node)
    if node.op_type == "Add" and (
        any(is_constant(v) for v in reads)
        or dimensions(reads[0]) != dimensions(reads[1])
        or reads[0] is reads[1]
    ):
        raise Mismatch("the operands differ in shape")
    if node.op_type in _MOVES:
        _check_move(node)
    tail = None if node.op_type in _MOVES else _tail(node)
    return Step(node, tail, reads, (tail or node).outputs[0])


def _check_weights(node: onnx_ir.Node) -> None:
    weights = constant(node.inputs[1])
    if weights is None or weights.dtype != np.float32:
        raise Mismatch("the weight is not a float32 constant")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant(bias) is None:
        raise Mismatch("the bias is not a constant")


def _check_move(node: onnx_ir.Node) -> None:
    if any(v is not None and not is_constant(v) for v in node.inputs[1:]):
        raise Mismatch("where it moves values to is computed")
    if node.op_type == "Pad":
        filling = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if attribute_string(node, "mode", "constant") != "constant":
            raise Mismatch("it pads with other values than zeros")
        if filling is not None and np.any(filling):
            raise Mismatch("it pads with other values than zeros")


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


def work_of(step: Step, shapes: Sequence[tuple[int, ...]]) -> str:
    """Describe the step's work: operator, shapes, attributes, as the key under which prices are kept."""
    attributes = ", ".join(f"{k}={a.value}" for k, a in sorted(step.node.attributes.items()))
    weights = ""
    if step.is_convolution:
        array = constant(step.node.inputs[1])
        assert array is not None
        biased = " + bias" if len(step.node.inputs) > 2 else ""
        weights = f" * {list(array.shape)}{biased} group {attribute_int(step.node, 'group', 1)}"
    for value in step.rest:
        array = constant(value)
        weights += f" {None if array is None else array.tolist()}"
    tail = "" if step.tail is None else f" {step.tail.op_type}"
    listed = " ".join(str(list(shape)) for shape in shapes)
    return f"{step.node.op_type} {listed}{weights}{tail} ({attributes})"
