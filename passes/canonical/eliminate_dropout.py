"""Remove Dropout nodes in inference form."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.purity import may_train
from whet.passes.rewrite import Replacement, Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateDropout(Rewrite):
    """Replace ``Dropout(x)`` by ``x`` where it drops nothing and nobody reads its mask."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Dropout", var("x"), open=True),)

    def check(self, found: Match, work: Workbench) -> None:
        """Decline a training form and a mask that is read."""
        if may_train(found.root):
            raise Mismatch("it is in training mode, or the mode is computed at run time")
        if any(_is_read(mask) for mask in found.root.outputs[1:]):
            raise Mismatch("its mask is read")

    def replace(self, found: Match, build: Builder) -> Replacement:
        """Return the operand, and nothing for the mask."""
        return (found["x"], *(None for _ in found.root.outputs[1:]))


def _is_read(value: onnx_ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
