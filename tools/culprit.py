"""Find the one rewrite that breaks a model, by bisecting the sequence of commits."""

import dataclasses
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import onnx_ir

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.comparison import agree
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.saving import save_model
from whet.ir.text import print_node
from whet.passes.pipeline import Pipeline, Step
from whet.passes.proof import Prover, Verdict, VerdictKind, save_reproducer
from whet.passes.proposal import Proposal
from whet.passes.workbench import Context, Workbench
from whet.tools.witness import refute

__all__ = ["Culprit", "Hunt", "Outcome"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A run of the pipeline that stopped after some number of commits."""

    error: float
    """Largest relative error over outputs and bindings; infinite when the result does not run."""
    reason: str
    steps: list[Step]
    commits: int


@dataclasses.dataclass
class Culprit:
    """The first commit after which the outputs are further away than the tolerance."""

    number: int
    total: int
    step: str = ""
    site: str = ""
    before: list[str] = dataclasses.field(default_factory=list[str])
    """The nodes it replaced, as text."""
    after: list[str] = dataclasses.field(default_factory=list[str])
    error: float = 0.0
    reason: str = ""
    reproducer: str = ""
    refuted: bool = False
    """Whether executing the cut-out subgraph alone shows the fault."""
    shown: str = ""
    """How far apart both sides are there, and on which data."""


class Hunt:
    """Run a pipeline again and again on copies of a model, each time up to another commit."""

    def __init__(
        self,
        model: onnx_ir.Model,
        pipeline: Pipeline,
        bindings: Bindings,
        source: Worker,
        *,
        prove: bool = True,
        seed: int = 0,
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """Compare with ``source``, the untouched model in a runtime of its own."""
        self._model = model
        self._pipeline = dataclasses.replace(pipeline, asked_for=frozenset())
        self._bindings = bindings
        self._source = source
        self._prove = prove
        self._seed = seed
        self._progress = progress
        self._proven: dict[Hashable, Verdict] = {}

    def outcome(self, limit: int | None = None) -> Outcome:
        """Run up to ``limit`` commits and compare end to end."""
        self._progress("all commits" if limit is None else f"the first {limit} commits")
        context = self._context(limit)
        model, steps = self._pipeline.run(self._model.clone(), context)
        error, reason = self._compare(model)
        return Outcome(error, reason, steps, context.committed)

    def find(self, total: int, tolerance: float, folder: Path) -> Culprit:
        """Bisect ``total`` commits, the last of which gives a wrong result; describe the first bad one."""
        good, bad = 0, total
        while bad - good > 1:
            middle = (good + bad) // 2
            if self.outcome(middle).error <= tolerance:
                good = middle
            else:
                bad = middle
        return self._describe(bad, total, folder)

    def _context(self, limit: int | None) -> Context:
        return Context(
            bindings=self._bindings,
            seed=self._seed,
            prove=self._prove,
            limit=limit,
            proven=self._proven,
        )

    def _compare(self, model: onnx_ir.Model) -> tuple[float, str]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            save_model(model, path)
            try:
                with Worker(path, RuntimeOptions()) as worker:
                    found = agree(model, self._bindings, self._source, worker, self._seed)
            except CannotRun as error:
                return float("inf"), f"the result does not run: {error}"
        worst = max(found, key=lambda a: a.relative_error)
        return worst.relative_error, f"output '{worst.output}' at {dict(worst.binding)}"

    def _describe(self, number: int, total: int, folder: Path) -> Culprit:
        culprit = Culprit(number, total)

        def watch(work: Workbench, proposal: Proposal | None) -> None:
            if work.context.committed == number:
                culprit.step = work.running.name
                self._examine(work, proposal, culprit, folder)

        context = self._context(number)
        context.watch = watch
        model, _ = self._pipeline.run(self._model.clone(), context)
        culprit.error, culprit.reason = self._compare(model)
        if not culprit.reproducer:
            culprit.reproducer = str(self._save_both(number, model, folder))
        return culprit

    def _examine(
        self, work: Workbench, proposal: Proposal | None, culprit: Culprit, folder: Path
    ) -> None:
        if proposal is None:
            culprit.site = "the whole graph"
            return
        culprit.site = proposal.site
        culprit.before = [print_node(node) for node in reversed(proposal.old)]
        culprit.after = [print_node(node) for node in proposal.new] or [
            f"{old.name} is replaced by {new.name}" for old, new in proposal.outputs
        ]
        verdict = self._refute(work, proposal)
        if verdict.kind is VerdictKind.REFUTED:
            culprit.shown = verdict.reason
            name = f"{work.running.name}.{proposal.site}"
            culprit.reproducer = str(save_reproducer(verdict, folder, name))
            culprit.refuted = True

    def _refute(self, work: Workbench, proposal: Proposal) -> Verdict:
        """Execute both sides on what the model computes there; where that shows nothing, on random data."""
        step = work.running
        found = refute(work.model, proposal, step, self._bindings, self._seed)
        if found is not None:
            return found
        prover = Prover(work.model, self._bindings, self._seed)
        return prover.check(proposal, step.fidelity, step.tolerance)

    def _save_both(self, number: int, after: onnx_ir.Model, folder: Path) -> Path:
        """Write the whole model before and after the commit, and inputs that tell them apart."""
        folder.mkdir(parents=True, exist_ok=True)
        before, _ = self._pipeline.run(self._model.clone(), self._context(number - 1))
        save_model(before, folder / "before.onnx")
        save_model(after, folder / "after.onnx")
        np.savez(
            folder / "inputs.npz", allow_pickle=False, **self._bindings.feeds(before, 0, self._seed)
        )
        return folder / "after.onnx"
