"""Tune a student towards a teacher: Adam, a warm-up, a cosine, and what was best on samples it is not tuned on."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from whet.ir.values import Array
from whet.passes.base import Tuning
from whet.passes.recovery.augmentation import Augment, augmented
from whet.passes.recovery.distances import Distance, Measured
from whet.passes.recovery.samples import Batch, Samples
from whet.passes.recovery.student import State, Student, arranged
from whet.passes.recovery.teacher import Teacher

if TYPE_CHECKING:
    import torch

    from whet.passes.recovery.muon import Muon

__all__ = ["Lesson", "Optimizer", "Plan", "steady", "train"]

_WARM_UP = 0.05
_LEAST = 0.01
"""The share of the rate that the cosine ends at."""
_LOOKS = 40
"""How often the distance on watched samples is measured, about."""
_PACE = 6
"""Steps after which it is known how many fit into the time."""
_GIVES_WAY = 0.3
"""The rate is multiplied by it where the start was nearer than what training led to, and training goes back."""
_LONGEST = 2.0
"""Gradients are shortened to so many times their usual norm, a running mean."""
Clock = Callable[[], float]
Optimizer = Literal["adam", "muon"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and how hard to train."""

    steps: int
    seconds: float
    batch: int
    rate: float
    patience: int
    seed: int
    augment: Augment
    optimizer: Optimizer = "adam"
    clock: Clock = time.monotonic


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """Who learns what from whom."""

    student: Student
    teacher: Teacher
    sketch: Student | None
    """The teacher in the student's precision, for samples whose answers are not kept; else it is asked itself."""
    samples: Samples
    distance: Distance
    plan: Plan
    progress: Callable[[str], None]
    """Is told now and then where training is."""


def train(lesson: Lesson) -> tuple[State, Tuning]:
    """Return the state that was nearest to the teacher on watched samples, and how it was found.

    The start is one of the states. Nothing of the student's model is changed.
    """
    run = _Run(lesson)
    run.look()
    for batches in run.rounds():
        run.step(batches)
        if run.over():
            break
    return run.best, run.record()


class _Run:
    """One training."""

    def __init__(self, lesson: Lesson) -> None:

        self._student, self._teacher, self._sketch = lesson.student, lesson.teacher, lesson.sketch
        self._samples, self._distance = lesson.samples, lesson.distance
        self._progress = lesson.progress
        self._plan = plan = lesson.plan
        self._free = list(lesson.student.free.values())
        self._largest = plan.rate
        self._optimizer = self._rested()
        self._start = self._told = plan.clock()
        self._paced = 0.0
        self._total = plan.steps
        self._done = 0
        self._usual = 0.0
        self._every = max(1, plan.steps // _LOOKS)
        self._curve: list[tuple[int, float]] = []
        self.best = lesson.student.state()
        self._stopped: Literal["", "steps", "minutes", "patience"] = ""

    def _rested(self) -> "torch.optim.Optimizer | Muon":
        """Return an optimizer that remembers nothing."""
        import torch

        from whet.passes.recovery.muon import Muon

        if self._plan.optimizer == "muon":
            return Muon(self._free)
        return torch.optim.Adam(self._free, betas=(0.9, 0.99))

    @property
    def _seconds(self) -> float:
        return self._plan.clock() - self._start

    def over(self) -> bool:
        """Tell whether to stop; look once more where time has run out between two looks."""
        if not self._stopped and self._seconds > self._plan.seconds:
            self._stopped = "minutes"
        if self._stopped and self._curve[-1][0] != self._done:
            self.look()
        return bool(self._stopped)

    def rounds(self) -> Iterator[list[Batch]]:
        """Yield the batches of each step, epoch after epoch; feeds that cannot be joined are added up."""
        rng = np.random.default_rng(self._plan.seed)
        while True:
            waiting: list[Batch] = []
            count = 0
            for batch in self._samples.epoch(rng, self._plan.batch):
                waiting.append(augmented(batch, self._plan.augment, rng))
                count += max((len(a) for a in batch.feeds.values() if a.ndim), default=1)
                if not self._samples.fixed or count >= self._plan.batch:
                    yield waiting
                    waiting, count = [], 0
            if waiting:
                yield waiting

    def step(self, batches: list[Batch]) -> None:
        """Move once along the mean slope."""
        self._optimizer.param_groups[0]["lr"] = self._rate()
        self._optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            found = self._student(batch.feeds)
            measured = self._distance.measure(found, self._wanted(batch))
            loss: Any = self._distance.value(measured) / len(batches)  # its backward has no types
            loss.backward()
        self._clip()
        self._optimizer.step()
        self._done += 1
        self._pace()
        if self._done % self._every == 0 or self._done >= self._total:
            self.look()
            self._decide()
        self._tell()

    def _wanted(self, batch: Batch) -> "list[torch.Tensor]":
        import torch

        forgotten = not batch.numbers or self._teacher.full
        if forgotten and self._sketch is not None:
            with torch.no_grad():
                return self._sketch(batch.feeds)
        return _tensors(
            self._teacher.of(batch) if batch.numbers else self._teacher.run(batch.feeds)
        )

    def _rate(self) -> float:
        """Return the rate of the next step: it rises linearly, then falls along a cosine."""
        share = self._done / max(self._total, 1)
        rising = min(1.0, (self._done + 1) / max(1.0, _WARM_UP * self._total))
        falling = _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        return self._largest * rising * falling

    def _clip(self) -> None:
        """Shorten gradients that are much longer than usual; those that are no numbers move nothing."""
        import torch

        limit = _LONGEST * self._usual if self._usual else math.inf
        slopes = [p.grad for p in self._free if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([s.norm() for s in slopes])))
        if not math.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            return
        if norm > limit:
            for slope in slopes:
                slope.mul_(limit / norm)
        norm = min(norm, limit)
        self._usual = 0.95 * self._usual + 0.05 * norm if self._usual else norm

    def _pace(self) -> None:
        """Plan fewer steps where those that are left would take longer than there is time."""
        if self._done == 1:
            self._paced = self._seconds
        if self._done < _PACE or (self._done > _PACE and self._done % self._every):
            return
        each = (self._seconds - self._paced) / (self._done - 1)
        fits = self._done + int(max(0.0, self._plan.seconds - self._seconds) / max(each, 1e-9))
        if fits < self._total:
            self._total = max(self._done, fits)
            self._every = max(1, min(self._every, self._total // _LOOKS))

    def look(self) -> None:
        """Measure the distance on watched samples, and keep the state if it is the nearest."""
        import torch

        total: Measured | None = None
        with torch.no_grad():
            for batch in self._samples.batches(self._samples.watched, self._plan.batch):
                found = self._student(batch.feeds, exact=True)
                part = self._distance.measure(found, _tensors(self._teacher.together(batch)))
                total = part if total is None else total + part
        assert total is not None
        value = float(self._distance.value(total))
        if self._curve and value < min(seen for _, seen in self._curve):
            self.best = self._student.state()
        elif self._curve and not value < self._curve[0][1]:
            self._go_back()
        self._curve.append((self._done, value))

    def _go_back(self) -> None:
        """Begin again at the best state, in smaller steps."""
        self._student.restore(self.best)
        self._largest *= _GIVES_WAY
        self._optimizer, self._usual = self._rested(), 0.0

    def _decide(self) -> None:
        """Stop at the end of the plan, or where nothing has come of many looks."""
        values = [value for _, value in self._curve]
        since = len(values) - 1 - int(np.argmin(np.nan_to_num(values, nan=np.inf)))
        if self._done >= self._total:
            self._stopped = "steps" if self._total == self._plan.steps else "minutes"
        elif since >= self._plan.patience:
            self._stopped = "patience"

    def _tell(self) -> None:
        """Say where training is, once a second."""
        now = self._plan.clock()
        if now - self._told < 1:
            return
        self._told = now
        first, last = self._curve[0][1], self._curve[-1][1]
        self._progress(
            f"recover: step {self._done} of {self._total}, {self._seconds:.0f} s,"
            f" distance on samples to watch by {first:.4g} → {last:.4g}"
        )

    def record(self) -> Tuning:
        """Return how training went."""
        best = min(self._curve, key=lambda point: point[1])
        return Tuning(
            steps=self._done,
            planned=self._plan.steps,
            best_step=best[0],
            seconds=self._seconds,
            stopped=self._stopped or "steps",
            elements=sum(free.numel() for free in self._free),
            curve=tuple(self._curve),
        )


def _tensors(arrays: Sequence[Array]) -> "list[torch.Tensor]":
    from whet.ir.twin import from_numpy

    return [arranged(from_numpy(array).float()) for array in arrays]


@contextlib.contextmanager
def steady(threads: int, seed: int) -> Generator[None]:
    """Let torch use ``threads`` threads (0: as many as it does) and kernels that give the same bits each time."""
    import torch

    fills: Any = torch.utils.deterministic  # has no types
    before, filled = torch.get_num_threads(), fills.fill_uninitialized_memory
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        if threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        fills.fill_uninitialized_memory = (
            False  # a tenth of the time; no kernel here reads before it writes
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        fills.fill_uninitialized_memory = filled
