"""Replace GatherND along one axis by Gather."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, dimensions
from whet.passes.base import Fidelity
from whet.passes.forms import axes_node, known_rank
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class ResolveGatherND(Rewrite):
    """Replace ``GatherND(x, i)`` by ``Gather(x, Squeeze(i, -1))`` where every index is a single number.

    That is how torch's exporter spells ``x[i]``; there may be no axes of a batch.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("GatherND", var("x"), var("indices")),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether an index names a place along the first axis only."""
        sizes = dimensions(found["indices"])
        return bool(sizes and sizes[-1] == 1)

    def check(self, found: Match, work: Workbench) -> None:
        """Decline axes of a batch."""
        if attribute_int(found.root, "batch_dims", 0):
            raise Mismatch("each element of the batch has its own indices")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the elements of the first axis."""
        indices = found["indices"]
        last = known_rank(indices) - 1
        flat = axes_node(build, found.root, "Squeeze", indices, [last])
        return build.op("Gather", found["x"], flat, attributes={"axis": 0})
