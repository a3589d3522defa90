"""Where a pass works: it proposes, the workbench proves, commits and counts."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import onnx_ir

from whet.analysis.base import Analyses
from whet.analysis.prices import Prices
from whet.backends.device import Device, host
from whet.errors import UsageError
from whet.ir.bindings import Bindings
from whet.ir.residency import spill
from whet.ir.values import Array
from whet.passes.base import Coverage, Damage, Failure, Fidelity, Pass
from whet.passes.proof import Prover, Verdict, VerdictKind, save_reproducer
from whet.passes.proposal import Builder, FreshNames, Proposal
from whet.passes.registry import nearest

__all__ = ["Context", "Workbench"]

Feeds = Mapping[str, Array]
_SKIPPED = "left alone as the user wishes (skip)"


@dataclasses.dataclass
class Context:
    """What a whole compile shares: data, target, seed, where reproducers go."""

    bindings: Bindings = dataclasses.field(default_factory=Bindings)
    calibration: Sequence[Feeds] = ()
    """Batches of real inputs to fit on. They may be read from disk each time they are asked for: iterate."""
    held_out: Sequence[Feeds] = ()
    """Batches that nothing is fitted on, to judge by; empty where there are too few samples."""
    max_ram: int | None = None
    """Bytes that this process should stay below while it calibrates."""
    observed_bytes: int = 0
    """The most that values of one calibration run have taken."""
    seed: int = 0
    threads: int = 0
    prove: bool = True
    """Execute every rewrite before it is committed."""
    reproducers: Path | None = None
    progress: Callable[[str], None] = lambda _message: None
    target: str = "onnxruntime"
    device: Device = dataclasses.field(default_factory=host)
    """The machine that the result will run on."""
    score: Callable[[onnx_ir.Model], float] | None = None
    """The metric of a model, where there is one that takes little time."""
    prices: Prices | None = None
    """Measured milliseconds of single operators; None where nothing may be measured."""
    spill: Path | None = None
    """Where large new weights lie until the model is lowered; without it they stay in memory."""
    proven: dict[Hashable, Verdict] = dataclasses.field(default_factory=dict[Hashable, Verdict])
    """Proofs so far, by structure; bindings and examples must stay the same while they are in use."""
    limit: int | None = None
    """Stop after this many commits; which one breaks a model is found by bisecting it."""
    committed: int = 0
    original: onnx_ir.Model | None = None
    """The model before the first lossy pass, where a later pass compares with it."""
    lineage: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Value of the present model -> the value of ``original`` whose place it took."""
    watch: "Callable[[Workbench, Proposal | None], None] | None" = None
    """Called just before each commit; without a proposal, just after a change made by hand."""

    @property
    def judge(self) -> Sequence[Feeds]:
        """Return the data to judge by: those held out, or the others where none are."""
        return self.held_out or self.calibration

    @property
    def exhausted(self) -> bool:
        """Tell whether no further change may be made."""
        return self.limit is not None and self.committed >= self.limit

    def record(self, work: "Workbench", proposal: Proposal | None) -> None:
        """Count one commit and show it to whoever watches."""
        self.committed += 1
        if self.watch is not None:
            self.watch(work, proposal)


class Workbench:
    """One pass at work on one model."""

    def __init__(
        self, model: onnx_ir.Model, step: Pass, context: Context, analyses: Analyses | None = None
    ) -> None:
        """Prepare to run ``step`` on ``model``."""
        self.model = model
        self.graph = model.graph
        self.context = context
        self.analyses = Analyses(model, context) if analyses is None else analyses
        self.coverage = Coverage()
        self._pass = step
        self._fresh: FreshNames | None = None
        needed = context.prove or step.fidelity is Fidelity.LOSSY
        self._prover = _prover(model, context) if needed else None

    @property
    def opset(self) -> int:
        """Return the version of the standard operator set that the model imports."""
        return self.graph.opset_imports.get("", 1)

    def nodes(self, *op_types: str, between: bool = False) -> list[onnx_ir.Node]:
        """Return the main graph's nodes of the given types (all without one), in graph order.

        Of those, the ones that the pass is to leave alone (``skip``) are missing, and those that it is not to begin at
        (``only``), unless it asks for what lies between. Nodes inside subgraphs (If, Loop, Scan) are left as they are
        by every pass.
        """
        wanted = frozenset(op_types)
        found = [node for node in self.graph if not wanted or node.op_type in wanted]
        step = self._pass
        if step.only and not between:
            found = [node for node in found if step.chooses(node.name or "")]
        if not step.skip:
            return found
        for node in found:
            if step.skips(node.name or ""):
                self.decline(node, _SKIPPED)
        return [node for node in found if not step.skips(node.name or "")]

    def check_names(self) -> None:
        """Raise UsageError if the user names a node, to leave alone or to work on, that is not there."""
        names = {node.name: None for node in self.graph if node.name}
        wishes = (("is to skip", self._pass.skip), ("is to work only on", self._pass.only))
        for wish, wanted in wishes:
            for name in wanted:
                if name not in names and not fnmatch.filter(names, name):
                    raise UsageError(
                        f"pass '{self._pass.name}' {wish} '{name}', which no node is called{nearest(name, names)}"
                    )

    def builder(self, near: onnx_ir.Node) -> Builder:
        """Return a builder for the new nodes of one proposal."""
        return Builder(self.fresh, near)

    def fresh(self, name: str) -> str:
        """Return a name that nothing in the model has."""
        if self._fresh is None:
            self._fresh = FreshNames(self.model)
        return self._fresh(name)

    def decline(self, node: onnx_ir.Node, reason: str) -> None:
        """Record why a matched place is left as it is."""
        self.coverage.declined[node.name or node.op_type] = reason

    def near_miss(self, node: onnx_ir.Node, reason: str) -> None:
        """Record where a larger pattern stopped matching."""
        self.coverage.near_misses[node.name or node.op_type] = reason

    def propose(
        self,
        proposal: Proposal,
        damage: Damage | None = None,
        samples: Mapping[str, Array] | None = None,
    ) -> bool:
        """Prove the proposal and commit it; return whether it was made.

        A lossy pass hands in what the site would be charged with; the measured error is filled in. ``samples`` are
        real values (by name) for the places where the proof would otherwise draw random ones.
        """
        site = proposal.site
        self.coverage.eligible += 1
        if self._skipped(proposal):
            return False
        if self.context.exhausted:
            proposal.discard()
            return False
        verdict = Verdict(VerdictKind.PROVEN)
        if self._prover is not None:
            step = self._pass
            verdict = self._prover.check(proposal, step.fidelity, step.tolerance, samples)
            if not self._accepted(proposal, verdict):
                proposal.discard()
                return False
        self._commit(proposal, site)
        if damage is not None:
            data = self._data(verdict)
            self.coverage.damage.append(
                dataclasses.replace(damage, error=verdict.error, measured_on=data)
            )
        return True

    def _data(self, verdict: Verdict) -> str:
        """Say what the error was measured on; passes take their samples from ``context.judge``."""
        if verdict.oracle != "calibration":
            return "random data"
        return "held-out data" if self.context.held_out else "calibration data"

    def _skipped(self, proposal: Proposal) -> bool:
        """Leave a place alone that the user wants left alone."""
        if not any(self._pass.skips(node.name or "") for node in proposal.old):
            return False
        self.coverage.declined[proposal.site] = _SKIPPED
        proposal.discard()
        return True

    def accept(self, proposal: Proposal, proof: str) -> None:
        """Commit a proposal that the pass has proven itself, saying what proves it."""
        self.coverage.eligible += 1
        if self._skipped(proposal):
            return
        if self.context.exhausted:
            proposal.discard()
            return
        self.coverage.proofs[proof] += 1
        self._commit(proposal, proposal.site)

    def _commit(self, proposal: Proposal, site: str) -> None:
        self.context.record(self, proposal)
        replaced = [(old.name or "", new) for old, new in proposal.outputs]
        proposal.commit(self._pass.name)
        if self.context.original is not None:
            self._descend(proposal, replaced)
        if self.context.spill is not None:
            for value in proposal.initializers:
                spill(value, self.context.spill)
        self.coverage.changed += 1
        self.coverage.declined.pop(site, None)

    def _descend(self, proposal: Proposal, replaced: Sequence[tuple[str, onnx_ir.Value]]) -> None:
        """Remember whose place new values took."""
        lineage = self.context.lineage
        for old, new in replaced:
            if new.producer() in proposal.new:
                lineage[new.name or ""] = lineage.get(old, old)

    def _accepted(self, proposal: Proposal, verdict: Verdict) -> bool:
        if verdict.kind is VerdictKind.PROVEN:
            self.coverage.proofs[verdict.oracle] += 1
            self.coverage.max_error = max(self.coverage.max_error, verdict.error)
            return True
        if verdict.kind is VerdictKind.OPEN:
            self.coverage.declined[proposal.site] = f"cannot be proven: {verdict.reason}"
            return False
        if self._pass.fidelity is Fidelity.LOSSY and math.isfinite(verdict.error):
            self.coverage.declined[proposal.site] = verdict.reason
            return False
        reproducer = ""
        if self.context.reproducers is not None:
            name = f"{self._pass.name}.{proposal.site}"
            reproducer = str(save_reproducer(verdict, self.context.reproducers, name))
        self.coverage.failures.append(
            Failure(proposal.site, verdict.reason, verdict.error, reproducer)
        )
        return False

    def changed_by_hand(self, count: int, proof: str) -> None:
        """Count changes that need no execution, saying what proves them (dead code: nobody reads it)."""
        self.coverage.matched += count
        self.coverage.eligible += count
        self.coverage.changed += count
        if count:
            self.coverage.proofs[proof] += count
            self.context.record(self, None)

    @property
    def running(self) -> Pass:
        """Return the pass at work."""
        return self._pass


def _prover(model: onnx_ir.Model, context: Context) -> Prover:
    return Prover(model, context.bindings, context.seed, context.proven)
