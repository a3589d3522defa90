"""Move scales one region after the other, where earlier moves have replaced nodes of later regions."""

from collections.abc import Callable

import onnx_ir

from whet.errors import Mismatch
from whet.passes.proposal import Proposal
from whet.passes.quantization.scaled_region import (
    Floats,
    Region,
    Writer,
    find_region,
    moved,
    positions,
)  # fmt: skip
from whet.passes.workbench import Workbench

__all__ = ["ScaleMoves"]


class ScaleMoves:
    """What became of the nodes that were there when the regions were found."""

    def __init__(self, work: Workbench, read: Callable[[onnx_ir.Node], Writer]) -> None:
        """Propose to ``work``; ``read`` makes a writer of a node, or raises Mismatch."""
        self._work = work
        self._read = read
        self._made: dict[onnx_ir.Node, onnx_ir.Node] = {}

    def writer(self, region: Region) -> onnx_ir.Node:
        """Return the region's writer as it is now."""
        return self._made.get(region.writer.node, region.writer.node)

    def changed_readers(self, region: Region) -> bool:
        """Tell whether an earlier move scaled what reads the region."""
        return any(reader.linear.node in self._made for reader in region.readers)

    def propose(self, region: Region, scales: Floats) -> None:
        """Divide the region's channels by ``scales``, and multiply them in the readers."""
        node = self.writer(region)
        build = self._work.builder(node)
        try:
            current = find_region(self._read(node), positions(self._work.graph))
            proposal = moved(current, scales, build)
        except Mismatch as reason:
            Proposal((node,), (), tuple(build.nodes)).discard()
            self._work.decline(node, str(reason))
            return
        if self._work.propose(proposal):
            after = {old: new for new, old in proposal.places.items()}
            for old in (region.writer.node, *(reader.linear.node for reader in region.readers)):
                now = self._made.get(old, old)
                self._made[old] = after.get(now, now)
