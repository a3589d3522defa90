"""What the passes of this folder share: a small pattern gets one of the runtime's own operators if that is faster.

A pass gives ``patterns`` and ``spell``; matching, measuring, proving and the reasons to decline are here.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_constant
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.pattern import Match, Op, match
from whet.passes.proposal import Builder, Proposal
from whet.passes.spelling_prices import SeenShapes, SpellingPrices
from whet.passes.workbench import Workbench

__all__ = ["MICROSOFT", "Choice", "Spelled", "demand_float32", "demand_vector"]

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclasses.dataclass(frozen=True)
class Spelled:
    """A pattern in other words."""

    operator: str
    """Its name in reports: the runtime's operator."""
    outputs: tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]
    """Which old value becomes which new one."""
    anchor: onnx_ir.Node | None = None
    """The new nodes go before this one (the pattern's root without one): all they read must be there by then, and all
    readers of the old values must come later."""


@dataclasses.dataclass(frozen=True)
class Choice(Pass):
    """Spell a pattern with an operator of the runtime, where that was measured to be faster at the shapes seen.

    Both spellings are timed as models of their own with all of the runtime's optimizations, so that what the runtime
    fuses by itself stays in plain operators. Subclasses give ``patterns``, the largest first, and :meth:`spell`, which
    raises :class:`~whet.errors.Mismatch` where the operator cannot be used.
    """

    changes: ClassVar[Change] = Change.OPS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns: ClassVar[tuple[Op, ...]] = ()

    def applies(self, found: Match) -> bool:
        """Tell whether the place is one the pass is about; if not it is no match, and nothing is recorded."""
        return True

    def near(self, root: onnx_ir.Node) -> bool:
        """Tell whether it is worth a word that no pattern matches at ``root``."""
        return True

    @abstractmethod
    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the pattern in the runtime's operator; may raise Mismatch."""

    def apply(self, work: Workbench) -> None:
        """Sweep over the graph until nothing changes."""
        refused: set[onnx_ir.Node] = set()
        while True:
            before = work.coverage.changed
            work.coverage.matched = work.coverage.eligible = before
            self._sweep(work, refused)
            if work.coverage.changed == before:
                return

    def _sweep(self, work: Workbench, refused: set[onnx_ir.Node]) -> None:
        kinds = {kind for pattern in self.patterns for kind in pattern.op_types}
        places = {root: found for root in work.nodes(*kinds) if (found := self._find(root, work))}
        shapes = SeenShapes(work)
        if work.context.prices is not None:
            shapes = SeenShapes(work, _operands(m for found in places.values() for m in found))
        for root in reversed(places):  # what is behind a place may be the larger one
            if root.graph is None or not (found := self._find(root, work)):
                continue
            work.coverage.matched += 1
            if root in refused:
                work.coverage.eligible += 1
            elif not self._visit(found, work, shapes):
                refused.add(root)

    def _find(self, root: onnx_ir.Node, work: Workbench) -> list[Match]:
        """Return what matches at ``root``, the largest pattern first."""
        tried = [match(p, root) for p in self.patterns if root.op_type in p.op_types]
        found = [m for m in tried if isinstance(m, Match)]
        missed = [reason for reason in tried if isinstance(reason, str) and reason]
        if missed and not found and self.near(root):
            work.near_miss(root, "; ".join(dict.fromkeys(missed)))
        return [m for m in found if self.applies(m)]

    def _visit(self, matches: Sequence[Match], work: Workbench, shapes: SeenShapes) -> bool:
        """Rewrite the largest of the patterns for which that pays; False if its proof refused."""
        root = matches[0].root
        reasons: dict[str, None] = {}
        for found in matches:
            build = work.builder(root)
            try:
                proposal = self._proposal(found, build, work, shapes)
            except Mismatch as reason:
                Proposal((root,), (), tuple(build.nodes)).discard()
                reasons[str(reason)] = None
                continue
            work.coverage.declined.pop(root.name or root.op_type, None)
            return work.propose(proposal)
        work.decline(root, "; ".join(reasons))
        return True

    def _proposal(
        self, found: Match, build: Builder, work: Workbench, shapes: SeenShapes
    ) -> Proposal:
        if work.context.prices is None:
            raise Mismatch("nothing may be measured here, so the plain operators stay")
        spelled = self.spell(found, build, shapes)
        anchor = spelled.anchor or found.root
        others = (node for node in found.nodes if node is not anchor)
        proposal = Proposal(
            (anchor, *others), spelled.outputs, tuple(build.nodes), tuple(build.initializers)
        )
        SpellingPrices(work, shapes).demand_faster(proposal, spelled.operator)
        return proposal


def _operands(matches: Iterable[Match]) -> list[onnx_ir.Value]:
    read = (value for found in matches for node in found.nodes for value in node.inputs)
    return [value for value in read if value is not None and not is_constant(value)]


def demand_float32(*values: onnx_ir.Value | None) -> None:
    """Raise Mismatch unless all values are float32, for which the operators here have kernels."""
    for value in values:
        if value is not None and value.dtype != onnx_ir.DataType.FLOAT:
            raise Mismatch(f"'{value.name}' is {value.dtype}, not float32")


def demand_vector(value: onnx_ir.Value, length: int, shapes: SeenShapes) -> None:
    """Raise Mismatch unless ``value`` has one dimension of ``length``."""
    if shapes.first(value) != (length,):
        raise Mismatch(f"'{value.name}' has shape {shapes.first(value)}, not ({length},)")
