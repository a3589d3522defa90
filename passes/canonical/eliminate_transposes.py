"""Remove transposes that keep the order."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.ir.values import attribute_ints, rank
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateTransposes(Rewrite):
    """Replace ``Transpose(x, perm)`` by ``x`` where ``perm`` keeps every axis in its place."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Transpose", var("x")),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the order stays."""
        perm = attribute_ints(found.root, "perm")
        if perm is None:
            axes = rank(found["x"])
            return axes is not None and axes < 2
        return perm == tuple(range(len(perm)))

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand."""
        return found["x"]
