"""What passes over experts have in common: find, plan, prove, judge, make."""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir

from whet.analysis.experts import Experts, find_experts
from whet.analysis.output_damage import OutputError
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.trials import model_with, proven
from whet.passes.option import option
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["ExpertPass", "Planned"]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A smaller layer, and what it must agree with to rounding."""

    proposal: Proposal
    comparison: Proposal
    aside: tuple[onnx_ir.Node, ...]
    """Nodes of the comparison that will never be in a graph."""
    what: str
    bytes: int
    """Of the experts' weights that are left."""


@dataclasses.dataclass(frozen=True)
class ExpertPass(Pass):
    """Make layers of experts smaller, one after the other."""

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True
    explains: ClassVar[bool] = True
    proof: ClassVar[str] = ""
    """What the comparison shows."""

    limit: float = option(0.25, above=0)
    """The largest ||new - old|| / ||old|| of the model's outputs on data held out, of all layers together."""

    @abstractmethod
    def plan(self, experts: Experts, work: Workbench) -> Planned:
        """Return what becomes of one layer; raises Mismatch."""

    def apply(self, work: Workbench) -> None:
        """Visit every layer of experts in graph order."""
        found = find_experts(work.graph)
        chosen = set(work.nodes("TopK", "MoE", "QMoE"))
        for node, reason in found.unread.items():
            if node in chosen:
                work.coverage.matched += 1
                work.decline(node, reason)
        layers = [experts for experts in found.experts if experts.node in chosen]
        work.coverage.matched += len(layers)
        if layers and not work.context.calibration:
            self._decline(layers, "needs calibration data", work)
        elif layers:
            self._visit(layers, work)

    def _decline(self, layers: Sequence[Experts], reason: str, work: Workbench) -> None:
        for experts in layers:
            work.decline(experts.node, reason)

    def _visit(self, layers: Sequence[Experts], work: Workbench) -> None:
        try:
            judge = OutputError(work.model, work.context)
        except CannotRun as reason:
            self._decline(layers, str(reason), work)
            return
        for experts in layers:
            if self._is_done(experts):
                work.decline(experts.node, f"{self.name} was here already")
                continue
            try:
                self._change(experts, self.plan(experts, work), judge, work)
            except (Mismatch, CannotRun) as reason:
                work.decline(experts.node, str(reason))

    def _is_done(self, experts: Experts) -> bool:
        nodes = {experts.node, *(node for stack in experts.stacks for node, _ in stack.readers)}
        mark = f"{self.name}:"
        return any((n.metadata_props.get("whet.from") or "").startswith(mark) for n in nodes)

    def _change(self, experts: Experts, plan: Planned, judge: OutputError, work: Workbench) -> None:
        """Prove, judge, and make the change, or say why not."""
        site, before = plan.proposal.site, experts.bytes
        is_proven = proven(plan.comparison, experts.node, self.proof, work)
        Proposal((), (), plan.aside).discard()
        if not is_proven:
            plan.proposal.discard()
            return
        error = judge.of(model_with(work.model, plan.proposal))
        if error > self.limit:
            plan.proposal.discard()
            reason = f"{plan.what}: the outputs change by {error:.3g}, the limit is {self.limit:g}"
            work.decline(experts.node, reason)
            return
        count = work.coverage.changed
        work.accept(plan.proposal, "error of the outputs on data held out")
        if work.coverage.changed == count:
            return
        work.coverage.max_error = max(work.coverage.max_error, error)
        held = "held-out data" if work.context.held_out else "calibration data"
        work.coverage.damage.append(
            Damage(site, f"{plan.what}, outputs", error, before, plan.bytes, measured_on=held)
        )
