"""What is done to each result of a product before it is stored: the elementwise operators behind it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST, Layout
from whet.backends.tvm.activations import UNARY, activation
from whet.backends.tvm.api import Expr, tirx
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.operators.arithmetic import BINARY
from whet.ir.array import Array
from whet.ir.values import is_constant

__all__ = ["Ending", "find_ending"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One operator; its operand is a number for each channel, one for each result, or none."""

    key: str
    operand: Literal["", "channel", "full"]
    apply: Callable[[Expr, Expr], Expr] = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Ending:
    """Operators in order, and the tensors of those that have one."""

    stages: tuple[Stage, ...] = ()
    tensors: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
    shapes: tuple[tuple[int, ...], ...] = ()

    def apply(self, x: Expr, at: Expr, channel: Expr, operands: Sequence[Any]) -> Expr:
        """Return the result that is number ``at`` and belongs to ``channel``."""
        given = iter(operands)
        for stage in self.stages:
            other = None
            if stage.operand:
                other = next(given)[channel if stage.operand == "channel" else at]
            x = stage.apply(x, other)
        return x

    def __str__(self) -> str:
        """Return the operators and what kind of operand they have, each after a bar."""
        return "".join(f" | {s.key}{' ' if s.operand else ''}{s.operand}" for s in self.stages)

    def arguments(self) -> list[tuple[tuple[int, ...], str]]:
        """Return the shapes and types of the tensors."""
        return [(shape, "float32") for shape in self.shapes]


def find_ending(
    low: Lowering,
    node: onnx_ir.Node,
    layout: Layout,
    padded: int,
    bias: Array | None = None,
) -> tuple[onnx_ir.Value, Ending]:
    """Return the value that a kernel for ``node`` can go on to, and what it does on the way.

    ``padded`` is how many channels a kernel reads numbers of. The nodes on the way are marked as done.
    """
    stages: list[Stage] = []
    tensors: list[Any] = []
    shapes: list[tuple[int, ...]] = []
    value = node.outputs[0]
    shape = low.shape(value)
    channels = shape[1 if layout == LAST else -1]

    def add(key: str, kind: Literal["channel", "full"], apply: Any, tensor: Any, size: Any) -> None:
        stages.append(Stage(key, kind, apply))
        tensors.append(tensor)
        shapes.append(tuple(size))

    if bias is not None and np.any(bias):
        add("bias", "channel", BINARY["Add"], low.constant(_padded(bias, padded)), (padded,))
    while (reader := low.sole_reader(value)) is not None:
        if reader.domain not in {"", "ai.onnx"} or low.dtype(reader.outputs[0]) != "float32":
            break
        if low.shape(reader.outputs[0]) != shape or len(reader.outputs) > 1:
            break
        if reader.op_type in UNARY and reader.inputs[0] is value:
            found = activation(low, reader)
            if found is None:
                break
            stages.append(Stage(found.key, "", _alone(found.apply)))
        elif reader.op_type in BINARY and len(reader.inputs) == 2:
            if not _binary(low, reader, value, layout, channels, padded, add, stages):
                break
        else:
            break
        low.done.add(reader)
        value = reader.outputs[0]
    return value, Ending(tuple(stages), tuple(tensors), tuple(shapes))


def _alone(apply: Callable[[Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    return lambda x, _: apply(x)


def _binary(
    low: Lowering,
    reader: onnx_ir.Node,
    value: onnx_ir.Value,
    layout: Layout,
    channels: int,
    padded: int,
    add: Callable[..., None],
    stages: list[Stage],
) -> bool:
    """Add a stage for an operator of two operands; tell whether it can be one."""
    first = reader.inputs[0] is value
    other = reader.inputs[1 if first else 0]
    if other is None or other is value or low.dtype(other) != "float32":
        return False
    function = BINARY[reader.op_type]
    apply = function if first else (lambda a, b: function(b, a))
    key = f"{reader.op_type}{'' if first else ' turned'}"
    shape = low.shape(value)
    known = low.known(other)
    if known is not None and known.size == 1:
        number = tirx.FloatImm("float32", float(known.item()))
        stages.append(Stage(f"{key} {known.item()!r}", "", lambda x, _: apply(x, number)))
        return True
    axis = 1 if layout == LAST else len(shape) - 1
    wide = (1,) * (len(shape) - len(low.shape(other))) + low.shape(other)
    if known is not None and wide[axis] == channels == known.size:
        add(key, "channel", apply, low.constant(_padded(known.reshape(-1), padded)), (padded,))
        return True
    if low.shape(other) != shape or not (
        is_constant(other) or known is not None or _there(low, other)
    ):
        return False
    tensor = low.tensor(other, layout)
    moved = shape if layout != LAST else (shape[0], *shape[2:], shape[1])
    add(key, "full", apply, tensor, moved)
    return True


def _there(low: Lowering, value: onnx_ir.Value) -> bool:
    return low.has(value) or low.has(value, LAST)


def _padded(array: Array, size: int) -> Array:
    found = np.ones(size, np.float32)
    found[: array.size] = array.astype(np.float32)
    return found
