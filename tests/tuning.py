"""A kernel that is not there and a timer that knows its times, for tests of tuning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("tvm", reason="TVM is not installed (pip install 'whet[tvm]')")

from whet.backends.measure import Timing
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule, Schedules, spell
from whet.backends.tvm.tuning.database import Database
from whet.backends.tvm.tuning.stand import Race
from whet.backends.tvm.works.work import Work
from whet.ir.execute import CannotRun

MACHINE = Machine(cpu="made-up", threads=2)


class Fake(Work):
    """Two groups of choices: a in 0..3, b in 0..1; usual is neither the first nor the best."""

    name: ClassVar[str] = "fake"

    def __init__(self, key: str = "fake") -> None:
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def usual(self) -> Schedule:
        return {"a": 1, "b": 0}

    def groups(self) -> Sequence[Sequence[Schedule]]:
        return [[{"a": n} for n in range(4)], [{"b": n} for n in range(2)]]

    def function(self, schedule: Schedule) -> Any:
        raise NotImplementedError

    def operands(self, draw: np.random.Generator) -> Sequence[np.ndarray]:
        raise NotImplementedError

    def packed(self, operands: Sequence[np.ndarray], schedule: Schedule) -> Sequence[np.ndarray]:
        raise NotImplementedError

    @property
    def constants(self) -> frozenset[int]:
        return frozenset()

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        return (), "float32"


class Clock:
    """Seconds that pass when somebody measures."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Known:
    """A timer that takes milliseconds from a table, half a second for each race."""

    def __init__(
        self,
        times: Mapping[str, float],
        *,
        usual: float = 1.0,
        spread: float = 0.001,
        errors: Mapping[str, float] | None = None,
        clock: Clock | None = None,
        before: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self.times = times
        self.usual = usual
        self.spread = spread
        self.errors = errors or {}
        self.clock = clock or Clock()
        self.before = before
        self.asked: list[tuple[str, str, int]] = []

    def race(self, work: Work, schedule: Schedule, rounds: int) -> Race:
        self.before(len(self.asked))
        text = spell(schedule)
        self.asked.append((work.key, text, rounds))
        self.clock.now += 0.5
        ms = self.times.get(text, self.usual * 1.5)
        if ms < 0:
            raise CannotRun("the runtime's process died (SIGSEGV)")
        if schedule == work.usual():
            ms = self.usual
        return Race(self._timing(self.usual), self._timing(ms), self.errors.get(text, 0.0))

    def _timing(self, ms: float) -> Timing:
        return Timing(ms, ms * (1 - self.spread), ms * (1 + self.spread), 3)


def database(folder: Path) -> Database:
    """Return a database of its own."""
    return Database(MACHINE, folder / "schedules.json")


def asked_for(*keys: str, calls: Sequence[int] = ()) -> Schedules:
    """Return schedules that were asked for kernels."""
    found = Schedules()
    for key, count in zip(keys, calls or [1] * len(keys), strict=True):
        found.find(Fake(key), count)
    return found
