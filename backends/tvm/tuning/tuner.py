"""Find better schedules within a time: the kernels that cost most first, one group of choices after the other.

Groups are gone through one by one, with the best found so far for the rest (coordinate descent); the fastest few are
raced against the usual schedule once more, for longer, and the winner is taken only if it wins beyond noise.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

from whet.backends.tvm.schedules import Schedule, Schedules, read, spell
from whet.backends.tvm.tuning.database import Database, Record
from whet.backends.tvm.tuning.stand import Timer
from whet.backends.tvm.works.work import Work
from whet.ir.execute import CannotRun
from whet.passes.base import Fidelity

__all__ = ["Tuned", "Tuner"]

_QUICK, _LONG = 3, 11
"""Rounds of a trial, and of the races that decide."""
_FINALISTS = 3
_BEHIND = 1.1
"""Times the best one's, above which a choice is not combined with others."""
_GAIN = 0.02
"""What a schedule must save to be taken, beside quartiles that do not meet."""
_SHARE = 0.003
"""Kernels with less of the model's time are left as they are."""
_DECIDING = 3.0
"""Seconds kept for the races that decide."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning came to."""

    kernels: int
    """That are worth it."""
    done: int
    """Of which everything was tried."""
    before: float
    after: float
    """Milliseconds of all kernels, each timed by itself."""
    interrupted: bool = False
    idle: bool = False
    """Whether there was nothing left to try."""
    failures: tuple[str, ...] = ()
    """Kernels that could not be timed, with the reasons."""


class Tuner:
    """One run."""

    def __init__(
        self,
        timer: Timer,
        database: Database,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """Take what times, where it is kept, and for how long."""
        self._timer = timer
        self._database = database
        self._clock = clock
        self._progress = progress
        self._seconds = seconds
        self._end = clock() + seconds
        self._failures: list[str] = []
        self._tried = 0

    def run(self, schedules: Schedules) -> Tuned:
        """Tune the kernels of a model; Ctrl-C ends it with what was found."""
        try:
            self._price(schedules)
            for key in self._worth(schedules):
                self._explore(schedules.works[key])
        except KeyboardInterrupt:
            return self._sum(schedules, interrupted=True)
        return self._sum(schedules)

    @property
    def _left(self) -> float:
        return self._end - self._clock()

    def _price(self, schedules: Schedules) -> None:
        """Time every kernel that nothing is known about."""
        for number, (key, work) in enumerate(schedules.works.items()):
            if self._database.find(key) is not None:
                continue
            if self._left <= 0:
                return
            self._say(f"time kernel {number + 1} of {len(schedules.works)}")
            try:
                found = self._timer.race(work, work.usual(), 1)
            except CannotRun as error:
                self._failures.append(f"{key} was not timed: {error}")
                continue
            self._database.keep(key, Record(found.usual.median))

    def _worth(self, schedules: Schedules) -> list[str]:
        """Return the kernels that take time, the one that takes most first."""
        costs = {key: self._cost(schedules, key, "usual_ms") for key in schedules.works}
        least = _SHARE * sum(costs.values())
        return sorted((k for k, c in costs.items() if c > least), key=lambda k: -costs[k])

    def _cost(self, schedules: Schedules, key: str, what: str) -> float:
        record = self._database.find(key)
        if record is None:
            return 0.0
        best = record.best_ms if what == "best_ms" and record.best else record.usual_ms
        return schedules.calls[key] * best

    def _explore(self, work: Work) -> None:
        """Try what is left to try of a kernel, and decide."""
        record = self._database.find(work.key)
        if record is None or record.done:
            return
        before = len(record.trials)
        complete = True
        for schedule in self._candidates(work, record):
            if self._left < _DECIDING:
                complete = False
                break
            self._try(work, record, schedule)
        if len(record.trials) > before or complete:
            self._decide(work, record)
            record.done = complete
            self._database.keep(work.key, record)

    def _candidates(self, work: Work, record: Record) -> Iterator[Schedule]:
        """Yield schedules that nothing is known about, each group upon the best of those before it; twice.

        The second time, what was far behind before is left out.
        """
        groups = work.groups()
        for group in (*groups, *groups):
            base, ratio = _leader(work, record)
            for part in group:
                schedule = {**base, **part}
                if schedule == work.usual() or spell(schedule) in record.trials:
                    continue
                if _least(record, part) <= _BEHIND * ratio:
                    yield schedule

    def _try(self, work: Work, record: Record, schedule: Schedule) -> None:
        self._say(f"{work.key.split(' | ')[0]}, schedule {len(record.trials) + 1}")
        text = spell(schedule)
        self._tried += 1
        try:
            found = self._timer.race(work, schedule, _QUICK)
        except CannotRun as error:
            record.trials[text] = str(error)
        else:
            reason = _wrong(found.error)
            record.trials[text] = reason or found.other.median / found.usual.median
        self._database.keep(work.key, record)

    def _decide(self, work: Work, record: Record) -> None:
        """Take the fastest that wins beyond noise in a longer race; one that was taken before must win anew."""
        ranked = sorted((r, t) for t, r in record.trials.items() if isinstance(r, float) and r < 1)
        record.best, record.best_ms = "", 0.0
        least = 1.0
        for _, text in ranked[:_FINALISTS]:
            schedule = read(text)
            assert schedule is not None
            try:
                found = self._timer.race(work, schedule, _LONG)
            except CannotRun as error:
                record.trials[text] = str(error)
                continue
            ratio = found.other.median / found.usual.median
            record.trials[text] = _wrong(found.error) or ratio
            clear = found.other.high < found.usual.low and ratio < 1 - _GAIN
            if clear and ratio < least and not _wrong(found.error):
                least, record.best = ratio, text
                record.best_ms, record.usual_ms = found.other.median, found.usual.median

    def _sum(self, schedules: Schedules, *, interrupted: bool = False) -> Tuned:
        worth = self._worth(schedules)
        records = [self._database.find(key) for key in worth]
        return Tuned(
            len(worth),
            sum(record is not None and record.done for record in records),
            sum(self._cost(schedules, key, "usual_ms") for key in schedules.works),
            sum(self._cost(schedules, key, "best_ms") for key in schedules.works),
            interrupted,
            self._tried == 0,
            tuple(self._failures),
        )

    def _say(self, what: str) -> None:
        left = max(self._left, 0.0)
        share = 1 - left / self._seconds if self._seconds else 1.0
        bar = "█" * round(12 * share)
        self._progress(f"tune {bar:░<12} {int(left) // 60}:{int(left) % 60:02} left: {what}")


def _leader(work: Work, record: Record) -> tuple[Schedule, float]:
    """Return the fastest schedule so far, with its time over the usual one's."""
    ranked = sorted((r, t) for t, r in record.trials.items() if isinstance(r, float))
    if not ranked or ranked[0][0] >= 1:
        return work.usual(), 1.0
    found = read(ranked[0][1])
    assert found is not None
    return found, ranked[0][0]


def _least(record: Record, part: Schedule) -> float:
    """Return the least that a schedule with that part took; zero where there was none that ran."""
    found = [
        ratio
        for text, ratio in record.trials.items()
        if isinstance(ratio, float) and part.items() <= (read(text) or {}).items()
    ]
    return min(found, default=0.0)


def _wrong(error: float) -> str:
    """Return why a result cannot be had for the usual one's."""
    limit = Fidelity.ROUNDING.tolerance
    return "" if error <= limit else f"its result is off by {error:.1e}, {limit:.0e} is allowed"
