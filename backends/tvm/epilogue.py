"""What is done to each result of a product before it is stored: the elementwise operators behind it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST, Layout
from whet.backends.tvm.activations import UNARY, activation
from whet.backends.tvm.api import Expr, tirx
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.operators.arithmetic import BINARY
from whet.backends.tvm.quantized import grid_of, source_of
from whet.ir.array import Array
from whet.ir.values import is_constant

__all__ = ["Ending", "find_ending"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One operator; its operand is a number for each channel, one for each result, one for all, or none."""

    key: str
    operand: Literal["", "channel", "full", "one"]
    apply: Callable[[Expr, Expr], Expr] = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Ending:
    """Operators in order, and the tensors of those that have one."""

    stages: tuple[Stage, ...] = ()
    tensors: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
    shapes: tuple[tuple[int, ...], ...] = ()
    kinds: tuple[str, ...] = ()
    """Their types."""
    dtype: str = "float32"
    """Of what is stored."""

    def apply(self, x: Expr, at: Expr, channel: Expr, operands: Sequence[Any]) -> Expr:
        """Return the result that is number ``at`` and belongs to ``channel``."""
        given = iter(operands)
        for stage in self.stages:
            other = None
            if stage.operand:
                place = {"channel": channel, "full": at, "one": 0}[stage.operand]
                other = next(given)[place]
            x = stage.apply(x, other)
        return x

    def __str__(self) -> str:
        """Return the operators and what kind of operand they have, each after a bar."""
        return "".join(f" | {s.key}{' ' if s.operand else ''}{s.operand}" for s in self.stages)

    def arguments(self) -> list[tuple[tuple[int, ...], str]]:
        """Return the shapes and types of the tensors."""
        return list(zip(self.shapes, self.kinds, strict=True))


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
    found = _Search(low, node.outputs[0], layout, padded)
    if bias is not None and np.any(bias):
        found.add("bias", "channel", BINARY["Add"], low.constant(_padded(bias, padded)), (padded,))
    while (reader := low.sole_reader(found.value)) is not None and found.step(reader):
        found.passed.append((reader, len(found.stages)))
        found.value = reader.outputs[0]
    return found.end()


class _Search:
    """Goes from a value to its reader, as long as there is one and it works on each element by itself."""

    def __init__(self, low: Lowering, value: onnx_ir.Value, layout: Layout, padded: int) -> None:
        self.low, self.value, self.padded = low, value, padded
        self.layout: Layout = layout
        self.shape = low.shape(value)
        self.channels = self.shape[1 if layout == LAST else -1]
        self.stages: list[Stage] = []
        self.tensors: list[tuple[Any, tuple[int, ...], str]] = []
        self.passed: list[tuple[onnx_ir.Node, int]] = []

    def add(
        self,
        key: str,
        kind: Literal["channel", "full", "one"],
        apply: Callable[[Expr, Expr], Expr],
        tensor: Any,
        size: Sequence[int],
        dtype: str = "float32",
    ) -> None:
        """Add a stage with an operand."""
        self.stages.append(Stage(key, kind, apply))
        self.tensors.append((tensor, tuple(size), dtype))

    def end(self) -> tuple[onnx_ir.Value, Ending]:
        """Return what was found; codes are stored rather than the numbers that they stand for."""
        if self.passed and self.passed[-1][0].op_type == "DequantizeLinear":
            self.value = self.passed.pop()[0].inputs[0] or self.value
            self.stages.pop()
        self.low.done.update(node for node, _ in self.passed)
        tensors, shapes, kinds = zip(*self.tensors, strict=True) if self.tensors else ((),) * 3
        dtype = self.low.dtype(self.value)
        return self.value, Ending(tuple(self.stages), tensors, shapes, kinds, dtype)

    def step(self, reader: onnx_ir.Node) -> bool:
        """Add the stage of a node; tell whether it can be one."""
        if reader.domain not in {"", "ai.onnx"} or len(reader.outputs) > 1:
            return False
        if self.low.shape(reader.outputs[0]) != self.shape:
            return False
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._grid(reader)
        if self.low.dtype(reader.outputs[0]) != "float32":
            return False
        if reader.op_type == "Cast" and self.low.dtype(self.value) == "int32":
            self.stages.append(Stage("Cast", "", lambda x, _: tirx.Cast("float32", x)))
            return True
        if self.low.dtype(self.value) != "float32":
            return False
        if reader.op_type in UNARY and reader.inputs[0] is self.value:
            found = activation(self.low, reader)
            if found is not None:
                self.stages.append(Stage(found.key, "", _alone(found.apply)))
            return found is not None
        return reader.op_type in BINARY and len(reader.inputs) == 2 and self._binary(reader)

    def _grid(self, reader: onnx_ir.Node) -> bool:
        """Round to a grid, or return from it."""
        encoded = reader.op_type == "QuantizeLinear"
        if reader.inputs[0] is not self.value:
            return False
        if (self.low.dtype(self.value) == "float32") != encoded:
            return False
        grid = grid_of(self.low, reader)
        if grid is None or (not encoded and self.low.dtype(reader.outputs[0]) != "float32"):
            return False
        apply = grid.encode if encoded else grid.decode
        self.stages.append(Stage(f"{reader.op_type}{grid}", "", _alone(apply)))
        return True

    def _binary(self, reader: onnx_ir.Node) -> bool:
        """Add a stage for an operator of two operands."""
        low, layout = self.low, self.layout
        first = reader.inputs[0] is self.value
        other = reader.inputs[1 if first else 0]
        if other is None or other is self.value or low.dtype(other) != "float32":
            return False
        function = BINARY[reader.op_type]
        apply = function if first else (lambda a, b: function(b, a))
        key = f"{reader.op_type}{'' if first else ' turned'}"
        known = low.known(other)
        if known is not None and known.size == 1:
            number = tirx.FloatImm("float32", float(known.item()))
            self.stages.append(Stage(f"{key} {known.item()!r}", "", lambda x, _: apply(x, number)))
            return True
        own = low.shape(other)
        if known is None and math.prod(own) == 1 and _there(low, other):
            self.add(key, "one", apply, low.reshaped(low.tensor(other), (1,)), (1,))
            return True
        if reader.op_type == "Mul" and known is None and self._two_factors(other):
            return True
        axis = 1 if layout == LAST else len(self.shape) - 1
        wide = (1,) * (len(self.shape) - len(own)) + own
        if known is not None and wide[axis] == self.channels == known.size:
            padded = low.constant(_padded(known.reshape(-1), self.padded))
            self.add(key, "channel", apply, padded, (self.padded,))
            return True
        return own == self.shape and self._full(key, apply, other, known)

    def _two_factors(self, other: onnx_ir.Value) -> bool:
        """Multiply by a number that was computed, then by constants of the channels: the scales of dynamic products."""
        low, maker = self.low, other.producer()
        if maker is None or maker.op_type != "Mul" or self.layout == LAST:
            return False
        for one, many in (maker.inputs, maker.inputs[::-1]):
            known = low.known(many)
            if one is None or known is None or low.known(one) is not None:
                continue
            if math.prod(low.shape(one)) != 1 or not _there(low, one):
                continue
            if known.shape[-1:] not in ((self.channels,), (1,), ()) or known.size not in (
                1,
                self.channels,
            ):
                continue
            row = np.broadcast_to(known.reshape(-1), (self.channels,))
            constants = low.constant(_padded(row, self.padded))
            self.add("Mul", "channel", BINARY["Mul"], constants, (self.padded,))
            self.add("Mul", "one", BINARY["Mul"], low.reshaped(low.tensor(one), (1,)), (1,))
            return True
        return False

    def _full(
        self, key: str, apply: Callable[[Expr, Expr], Expr], other: onnx_ir.Value, known: Any
    ) -> bool:
        """Add a stage whose operand has the shape of the result; codes are read as they are."""
        low, layout = self.low, self.layout
        shape = self.shape
        moved = shape if layout != LAST else (shape[0], *shape[2:], shape[1])
        coded = source_of(low, other)
        if coded is not None and _there(low, coded[0]):
            codes, grid = coded
            decoded = lambda x, code: apply(x, grid.decode(code))  # noqa: E731
            self.add(f"{key} {grid}", "full", decoded, low.tensor(codes, layout), moved, grid.dtype)
            return True
        if not (is_constant(other) or known is not None or _there(low, other)):
            return False
        self.add(key, "full", apply, low.tensor(other, layout), moved)
        return True


def _alone(apply: Callable[[Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    return lambda x, _: apply(x)


def _there(low: Lowering, value: onnx_ir.Value) -> bool:
    return low.has(value) or low.has(value, LAST)


def _padded(array: Array, size: int) -> Array:
    found = np.ones(size, np.float32)
    found[: array.size] = array.astype(np.float32)
    return found
