"""Remove slices that take everything."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import dimensions
from whet.passes.base import Fidelity
from whet.passes.forms import Range, ranges_of
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateSlices(Rewrite):
    """Replace ``Slice(x)`` by ``x`` where it takes every axis whole.

    An axis is taken whole when it is taken from 0 to the largest integer, or to its own fixed size, in steps of 1.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Slice", var("x"), name="slice", open=True),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether everything is taken."""
        try:
            ranges = ranges_of(found.root)
        except Mismatch:
            return False
        sizes = dimensions(found["x"])
        return all(r.is_full or _takes_all(r, sizes) for r in ranges)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand."""
        return found["x"]


def _takes_all(taken: Range, sizes: tuple[int | str | None, ...] | None) -> bool:
    if sizes is None or taken.step != 1 or not -len(sizes) <= taken.axis < len(sizes):
        return False
    size = sizes[taken.axis]
    if not isinstance(size, int):
        return False
    return (taken.start == 0 or taken.start <= -size) and taken.end >= size
