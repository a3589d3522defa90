"""Merge neighbouring Squeeze and Unsqueeze nodes."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import static_shape
from whet.passes.base import Fidelity
from whet.passes.forms import axes_node, axes_of, from_zero, known_rank
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite

_KINDS = ("Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class MergeSqueezes(Rewrite):
    """Replace two in a row by one: axes of the second count in the shape between them.

    ``Squeeze(Unsqueeze(x, a), a)`` and ``Unsqueeze(Squeeze(x, a), a)`` become ``x``.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op(_KINDS, op(_KINDS, var("x"), name="inner", open=True), name="outer", open=True),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand, or one node on it."""
        inner, outer, x = found.node("inner"), found.node("outer"), found["x"]
        rank = known_rank(x)
        first = _axes(inner, rank)
        middle = rank + len(first) if inner.op_type == "Unsqueeze" else rank - len(first)
        second = _axes(outer, middle)
        if inner.op_type != outer.op_type:
            return _cancelled(found, first, second)
        if outer.op_type == "Squeeze":
            left = [axis for axis in range(rank) if axis not in first]
            merged = sorted([*first, *(left[axis] for axis in second)])
        else:
            own = [axis for axis in range(middle + len(second)) if axis not in second]
            merged = sorted([*second, *(own[axis] for axis in first)])
        return axes_node(build, found.root, outer.op_type, x, merged)


def _axes(node: onnx_ir.Node, rank: int) -> tuple[int, ...]:
    """Return the axes counted from zero: of the input of a Squeeze, of the output of an Unsqueeze."""
    axes = axes_of(node)
    if axes is None:
        shape = static_shape(node.inputs[0])
        if shape is None:
            raise Mismatch("Squeeze without axes takes out whatever is 1 at run time")
        return tuple(axis for axis, size in enumerate(shape) if size == 1)
    return from_zero(axes, rank + len(axes) if node.op_type == "Unsqueeze" else rank)


def _cancelled(found: Match, first: tuple[int, ...], second: tuple[int, ...]) -> onnx_ir.Value:
    if set(first) != set(second):
        raise Mismatch(f"axes {list(first)} come or go and {list(second)} go or come")
    return found["x"]
