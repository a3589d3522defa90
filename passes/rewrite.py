"""Local rewrites: a pattern, a check, a replacement."""

import dataclasses
from abc import abstractmethod
from typing import ClassVar

import onnx_ir

from whet.errors import BrokenPass, Mismatch
from whet.passes.base import Pass
from whet.passes.pattern import Match, Op, match
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["Rewrite"]

Replacement = onnx_ir.Value | tuple[onnx_ir.Value | None, ...]


@dataclasses.dataclass(frozen=True)
class Rewrite(Pass):
    """Replace what a pattern matches, everywhere in the main graph, until it matches no more.

    Subclasses give ``patterns`` (the first that matches counts), :meth:`check`, which raises
    :class:`~whet.errors.Mismatch` to decline, and :meth:`replace`, which returns the values that take the place of the
    root's outputs. The new values must not match again; a rewrite that never ends is stopped by its budget.
    """

    patterns: ClassVar[tuple[Op, ...]] = ()

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the place is one the pass is about; if not it is no match, and nothing is recorded."""
        return True

    def check(self, found: Match, work: Workbench) -> None:
        """Raise :class:`~whet.errors.Mismatch` if the rewrite would not hold here."""

    @abstractmethod
    def replace(self, found: Match, build: Builder) -> Replacement:
        """Return the new value for each output of the root (None where nobody reads it); may raise Mismatch."""

    def apply(self, work: Workbench) -> None:
        """Sweep over the graph until nothing changes."""
        budget = 1 + 2 * len(work.graph)
        refused: set[onnx_ir.Node] = set()
        kinds = {kind for pattern in self.patterns for kind in pattern.op_types}
        while True:
            before = work.coverage.changed
            roots = work.nodes(*kinds)
            work.coverage.matched = work.coverage.eligible = before
            for root in roots:
                if root in refused:
                    work.coverage.matched += 1
                    work.coverage.eligible += 1
                elif root.graph is not None and not self._visit(root, work):
                    refused.add(root)
            if work.coverage.changed == before:
                return
            if work.coverage.changed > budget:
                raise BrokenPass(
                    f"'{self.name}' made {work.coverage.changed} rewrites, its budget is {budget}: "
                    "it matches its own output"
                )

    def _visit(self, root: onnx_ir.Node, work: Workbench) -> bool:
        """Rewrite at ``root`` if it matches; False if the proof refused."""
        found = self._find(root, work)
        if found is None:
            return True
        work.coverage.matched += 1
        build = work.builder(root)
        try:
            self.check(found, work)
            new = self.replace(found, build)
        except Mismatch as reason:
            work.decline(root, str(reason))
            _discard(build)
            return True
        values = new if isinstance(new, tuple) else (new,)
        pairs = zip(root.outputs, values, strict=True)
        outputs = tuple((old, value) for old, value in pairs if value is not None)
        return work.propose(
            Proposal(tuple(found.nodes), outputs, tuple(build.nodes), tuple(build.initializers))
        )

    def _find(self, root: onnx_ir.Node, work: Workbench) -> Match | None:
        missed = ""
        for pattern in self.patterns:
            if root.op_type not in pattern.op_types:
                continue
            found = match(pattern, root)
            if isinstance(found, Match):
                if self.applies(found, work):
                    return found
            else:
                missed = missed or found
        if missed:
            work.near_miss(root, missed)
        return None


def _discard(build: Builder) -> None:
    for node in build.nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
