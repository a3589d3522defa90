"""Run passes in order: verify after each, gate the lossy ones, keep the ledger."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import onnx_ir

from whet.analysis.base import Analyses
from whet.analysis.output_damage import OutputDamage, output_damage
from whet.errors import BrokenPass, InvalidModel, NothingChanged
from whet.ir.residency import release
from whet.ir.shapes import infer_shapes
from whet.ir.values import initializers, weight_bytes
from whet.passes.base import Coverage, Fidelity, Pass
from whet.passes.workbench import Context, Workbench

__all__ = ["Fixpoint", "Gate", "Pipeline", "Step"]


@dataclasses.dataclass(frozen=True)
class Fixpoint:
    """Repeat passes until none of them changes anything, ``rounds`` times at most."""

    passes: tuple[Pass, ...]
    rounds: int = 6


@dataclasses.dataclass
class Step:
    """What one pass did, over all its runs."""

    name: str
    fidelity: str
    summary: str
    coverage: Coverage = dataclasses.field(default_factory=Coverage)
    seconds: float = 0.0
    runs: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    ops_before: int = 0
    ops_after: int = 0
    explains: bool = False
    """Why places were left as they are belongs in the report."""
    spelling: str = ""
    """The pass with its options, as a recipe has it."""
    outputs: tuple[OutputDamage, ...] = ()
    """How far a lossy pass moved the model's outputs on held-out data."""
    metric: tuple[float, float] | None = None
    """The metric before and after a lossy pass, where it takes little time."""
    reverted: str = ""
    """Why the never-worse gate took the whole pass back; empty if it stayed."""


Gate = Callable[[onnx_ir.Model, onnx_ir.Model], str]
"""(before, after) -> the reason to take the pass back, or an empty string."""
Verifier = Callable[[onnx_ir.Model], None]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A sequence of passes and fixpoints."""

    stages: tuple[Pass | Fixpoint, ...]
    asked_for: frozenset[str] = frozenset()
    """Names of passes the user named; one of them that changes nothing is an error."""

    def run(
        self, model: onnx_ir.Model, context: Context, gate: Gate | None = None
    ) -> tuple[onnx_ir.Model, list[Step]]:
        """Transform ``model`` in place; return it (or the copy a reverted pass left behind) and the ledger.

        Raises:
            BrokenPass: a pass left an invalid model.
            NothingChanged: a pass that was asked for changed nothing.
        """
        compared = any(step.compares for step in flatten(self.stages))
        run = _Run(model, context, gate, compared=compared)
        for stage in self.stages:
            if isinstance(stage, Fixpoint):
                run.fixpoint(stage)
            else:
                run.once(stage)
        for step in run.steps.values():
            if step.name in self.asked_for and not step.coverage.changed:
                raise NothingChanged(
                    f"pass '{step.name}' changed nothing; nearest miss: {step.coverage.nearest_miss}"
                    " (allow_noop = true in a recipe, or --allow-noop, accepts this)"
                )
        return run.model, list(run.steps.values())


class _Run:
    """The state of one run of a pipeline."""

    def __init__(
        self, model: onnx_ir.Model, context: Context, gate: Gate | None, *, compared: bool = False
    ) -> None:
        self.model = model
        self.steps: dict[str, Step] = {}
        self._context = context
        self._gate = gate
        self._compared = compared
        self._analyses = Analyses(model, context)
        self._done: list[str] = []
        self._metric: float | None = None
        """The metric after the latest lossy pass."""
        self._bytes, self._ops = weight_bytes(model), len(model.graph)

    def fixpoint(self, stage: Fixpoint) -> None:
        """Repeat; a pass runs again only if something changed since its own last run."""
        version, seen = 0, dict.fromkeys(stage.passes, -1)
        for _ in range(stage.rounds):
            start = version
            for step in stage.passes:
                if seen[step] == version:
                    continue
                seen[step] = version
                if self.once(step):
                    version += 1
            if version == start:
                return
            infer_shapes(self.model)

    def once(self, step: Pass) -> int:
        """Run one pass, verify, gate; return the number of changes that stayed."""
        if self._context.exhausted:
            return 0
        self._context.progress(step.name)
        record = self._record(step)
        backup = self.model.clone() if self._gated(step) or self._judged(step) else None
        if self._compared and step.fidelity is Fidelity.LOSSY and self._context.original is None:
            self._context.original = self.model.clone()
        lineage = dict(self._context.lineage)
        work = Workbench(self.model, step, self._context, self._analyses)
        if not record.runs:
            work.check_names()
        start = time.perf_counter()
        try:
            step.apply(work)
            if work.coverage.changed:
                self._verify(step)
        except Exception as error:
            error.add_note(f"in pass '{step.name}', after {self._done[-8:]}")
            raise
        record.seconds += time.perf_counter() - start
        changed = work.coverage.changed
        if changed:
            self._analyses.invalidate(step.changes)
        if self._gated(step) and backup is not None and changed:
            changed = self._apply_gate(record, backup, work.coverage)
            if not changed:
                self._context.lineage = lineage
        if self._judged(step) and backup is not None and changed:
            self._judge(record, backup)
        self._close(record, work.coverage)
        release(initializers(self.model))
        return changed

    def _record(self, step: Pass) -> Step:
        size, ops = self._bytes, self._ops
        record = self.steps.get(str(step))
        if record is None:
            record = Step(step.name, step.fidelity.value, step.summary, explains=step.explains)
            record.spelling = str(step)
            record.bytes_before, record.ops_before = size, ops
            self.steps[str(step)] = record
        else:
            record.bytes_before += size - record.bytes_after
            record.ops_before += ops - record.ops_after
        return record

    def _close(self, record: Step, coverage: Coverage) -> None:
        record.coverage.add(coverage)
        record.runs += 1
        if coverage.changed:
            self._bytes, self._ops = weight_bytes(self.model), len(self.model.graph)
        record.bytes_after, record.ops_after = self._bytes, self._ops
        self._done.append(record.name)

    def _gated(self, step: Pass) -> bool:
        return self._gate is not None and step.gated

    def _judged(self, step: Pass) -> bool:
        data = self._context.held_out or self._context.score is not None
        return step.fidelity is Fidelity.LOSSY and bool(data)

    def _judge(self, record: Step, backup: onnx_ir.Model) -> None:
        """Record what a lossy pass did to the model's outputs, and to the metric."""
        context = self._context
        if context.held_out:
            context.progress(f"{record.name}: compare outputs on held-out data")
            record.outputs = output_damage(backup, self.model, context.held_out, context.threads)
        if context.score is not None:
            context.progress(f"{record.name}: evaluate")
            before = context.score(backup) if self._metric is None else self._metric
            self._metric = context.score(self.model)
            record.metric = before, self._metric

    def _apply_gate(self, record: Step, backup: onnx_ir.Model, coverage: Coverage) -> int:
        assert self._gate is not None
        reason = self._gate(backup, self.model)
        if not reason:
            return coverage.changed
        record.reverted = reason
        self.model = backup
        self._analyses.rebase(backup)
        return 0

    def _verify(self, step: Pass) -> None:
        from whet.ir.verify import verify

        try:
            verify(self.model)
        except InvalidModel as error:
            raise BrokenPass(f"pass '{step.name}' left an invalid model: {error}") from error


def flatten(stages: Sequence[Pass | Fixpoint]) -> list[Pass]:
    """Return the passes of a pipeline in the order of their first run."""
    found: list[Pass] = []
    for stage in stages:
        found.extend(stage.passes if isinstance(stage, Fixpoint) else (stage,))
    return found
