"""Compute each dynamic size once."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.sizes import Content, Sizes
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class ShareSizes(Pass):
    """Replace ``Shape(y)`` by an earlier ``Shape(x)`` that gives the same symbolic sizes.

    What is computed from sizes alone, such as a mask that every layer repeats over its own queries, becomes the same
    expression then, and one copy of it stays.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Sizes,)

    def apply(self, work: Workbench) -> None:
        """Visit every Shape in graph order."""
        known = work.analyses.get(Sizes())
        first: dict[Content, onnx_ir.Value] = {}
        for node in work.nodes("Shape"):
            work.coverage.matched += 1
            content = known.content(node.outputs[0])
            if content is None or None in content.items:
                work.decline(node, "its sizes are not known as expressions over the model's own")
                continue
            earlier = first.setdefault(content, node.outputs[0])
            if earlier is not node.outputs[0]:
                work.propose(Proposal((node,), ((node.outputs[0], earlier),)))
