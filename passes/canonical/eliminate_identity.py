"""Remove Identity nodes."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateIdentity(Rewrite):
    """Replace ``Identity(x)`` by ``x``.

    Declines where the result is an output of the graph that must keep its own name: ``x`` is an input, a constant, or
    an output already.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Identity", var("x")),)

    def check(self, found: Match, work: Workbench) -> None:
        """Decline where an output needs the node."""
        result, x = found.root.outputs[0], found["x"]
        if result.is_graph_output() and (x.producer() is None or x.is_graph_output()):
            raise Mismatch("an output of the graph that is an input, a constant or another output")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand."""
        return found["x"]
