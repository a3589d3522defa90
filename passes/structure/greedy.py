"""What leaving blocks out and sharing weights have in common: of the most similar, the one that costs least."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import onnx_ir

from whet.analysis.output_damage import OutputError
from whet.ir.execute import CannotRun
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.option import option
from whet.passes.structure.blocks import Drop, measure_closeness
from whet.passes.workbench import Workbench

__all__ = ["Candidate", "Greed", "GreedyPass"]


class Candidate(Protocol):
    """One way to do without the weights of a block."""

    @property
    def joint(self) -> onnx_ir.Node:
        """Return the addition that names the place."""
        ...

    @property
    def drop(self) -> Drop:
        """Return the block, whose input and output are compared."""
        ...

    @property
    def told(self) -> str:
        """Return how the model would be: ``without the mlp``."""
        ...


C = TypeVar("C", bound=Candidate)


@dataclasses.dataclass(frozen=True)
class GreedyPass(Pass, Generic[C]):
    """Do without the weights of one block after the other; subclasses say how."""

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True

    count: int = option(1, at_least=1)
    """How many go or give their weights up, those of earlier runs included."""
    kinds: tuple[str, ...] = option(
        ("attention", "mlp", "convolution"), some_of=("attention", "mlp", "convolution")
    )
    """Which blocks may."""
    limit: float = option(0.25, above=0)
    """The largest ||new - old|| / ||old|| of the model's outputs on data held out, of all of them together."""
    tries: int = option(6, at_least=1)
    """So many of the most similar are tried before one is taken."""

    @abstractmethod
    def places(self, graph: onnx_ir.Graph) -> Mapping[onnx_ir.Node, Sequence[C]]:
        """Return what can be done at each addition that ends a block, perhaps nothing."""

    @abstractmethod
    def begin(self, work: Workbench, found: Sequence[C]) -> "Greed[C]":
        """Return a run over these candidates."""

    def apply(self, work: Workbench) -> None:
        """Take one candidate after the other."""
        chosen = set(work.nodes("Add"))
        found = {joint: c for joint, c in self.places(work.graph).items() if joint in chosen}
        work.coverage.matched += len(found)
        reason = "" if work.context.calibration else "needs calibration data"
        for joint, candidates in found.items():
            if reason or not candidates:
                work.decline(joint, reason or "no other branch has weights of the same shapes")
        left = [candidate for candidates in found.values() for candidate in candidates]
        if reason or not left:
            return
        try:
            self.begin(work, left).run()
        except CannotRun as error:
            for joint in found:
                work.decline(joint, str(error))


class Greed(ABC, Generic[C]):
    """One run over one model."""

    def __init__(self, options: GreedyPass[C], work: Workbench, found: Sequence[C]) -> None:
        """Put the most similar in front."""
        self._pass, self._work, context = options, work, work.context
        drops = list(dict.fromkeys(candidate.drop for candidate in found))
        measured = measure_closeness(work.model, drops, context.calibration, context.threads)
        near = dict(zip(drops, measured, strict=True))
        self._cosines = {candidate: near[candidate.drop].cosine for candidate in found}
        self._left = sorted(found, key=lambda candidate: -self._cosines[candidate])
        self._judge = OutputError(work.model, context)
        self._measured_on = "held-out data" if context.held_out else "calibration data"

    @abstractmethod
    def done(self) -> int:
        """Return how many were taken in earlier runs of the pass."""

    @abstractmethod
    def trial(self, candidate: C) -> onnx_ir.Model:
        """Return a copy of the model with one more taken."""

    @abstractmethod
    def row(self, candidate: C, cosine: float, error: float) -> Damage:
        """Return what the report says, before anything is changed."""

    @abstractmethod
    def change(self, candidate: C) -> None:
        """Make the change."""

    @abstractmethod
    def excludes(self, taken: C, other: C) -> bool:
        """Tell whether the other cannot be taken any more."""

    def run(self) -> None:
        """Take candidates while there is one that keeps the limit."""
        done = self.done()
        for _ in range(self._pass.count - done):
            if not self._take_one():
                return
        for candidate in self._left:
            reason = f"{self._pass.count} are taken already" if done else "others change less"
            self._decline(candidate, reason)

    def _take_one(self) -> bool:
        tried = [(self._error(candidate), candidate) for candidate in self._shortlist()]
        if not tried:
            return False
        error, best = min(tried, key=lambda one: one[0])
        if error > self._pass.limit:
            for lost, candidate in sorted(tried, key=lambda one: -one[0]):
                reason = f"{candidate.told} the outputs change by {lost:.3g}, the limit is {self._pass.limit:g}"
                self._decline(candidate, reason)
            return False
        if self._took(best, error):
            self._left = [other for other in self._left if not self.excludes(best, other)]
            return True
        self._left.remove(best)
        return bool(self._left)

    def _shortlist(self) -> list[C]:
        """Return the most similar ones, of each place all that can be done."""
        joints = list(dict.fromkeys(c.joint for c in self._left))[: self._pass.tries]
        return [candidate for candidate in self._left if candidate.joint in joints]

    def _error(self, candidate: C) -> float:
        """Return how far the outputs are from the source's with one more taken."""
        return self._judge.of(onnx_ir.to_proto(self.trial(candidate)))

    def _took(self, candidate: C, error: float) -> bool:
        coverage = self._work.coverage
        before = coverage.changed
        row = self.row(candidate, self._cosines[candidate], error)
        self.change(candidate)
        if coverage.changed == before:
            return False
        coverage.max_error = max(coverage.max_error, error)
        coverage.damage.append(dataclasses.replace(row, measured_on=self._measured_on))
        return True

    def _decline(self, candidate: C, reason: str) -> None:
        self._work.decline(candidate.joint, f"{reason} (cosine {self._cosines[candidate]:.4f})")
