"""Merge a slice with the one before it."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import rank
from whet.passes.base import Fidelity
from whet.passes.forms import INT64_MAX, Range, from_zero, ranges_of, slice_node
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite


@dataclasses.dataclass(frozen=True)
class MergeSlices(Rewrite):
    """Replace ``Slice(Slice(x))`` by one Slice.

    Ranges of different axes stand side by side. Two ranges of the same axis, a:b and then c:d, become
    a+c : min(b, a+d); only where all four count from the front and both steps are 1.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Slice", op("Slice", var("x"), name="inner", open=True, sole=True), open=True),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return one slice."""
        first = _by_axis(found.node("inner"), found["x"])
        second = _by_axis(found.root, found["x"])
        merged = dict(first)
        for axis, taken in second.items():
            merged[axis] = within(first[axis], taken) if axis in first else taken
        ordered = [merged[axis] for axis in sorted(merged)]
        return slice_node(build, found.root, found["x"], ordered)


def _by_axis(node: onnx_ir.Node, x: onnx_ir.Value) -> dict[int, Range]:
    ranges = ranges_of(node)
    axes = tuple(r.axis for r in ranges)
    count = rank(x)
    if count is not None:
        axes = from_zero(axes, count)
    elif min(axes, default=0) < 0 or len(set(axes)) != len(axes):
        raise Mismatch("axes count from the back of an unknown rank")
    return {axis: dataclasses.replace(r, axis=axis) for axis, r in zip(axes, ranges, strict=True)}


def within(outer: Range, inner: Range) -> Range:
    """Return the range of the original axis that ``inner`` takes of what ``outer`` took."""
    if outer.step != 1 or inner.step != 1:
        raise Mismatch(f"axis {outer.axis} is taken twice, in steps")
    if min(outer.start, outer.end, inner.start, inner.end) < 0:
        raise Mismatch(f"axis {outer.axis} is taken twice, counted from its end")
    start = min(outer.start + inner.start, INT64_MAX)
    return Range(outer.axis, start, min(outer.end, outer.start + inner.end))
