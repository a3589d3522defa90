"""Compare models in milliseconds: alternating blocks of one run, medians with spread."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from whet.ir.values import Array

__all__ = ["Timed", "Timing", "compare_speed", "slower"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds per run."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""
    runs: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Summarize the medians of blocks."""
        low, median, high = (float(q) for q in np.percentile(samples, [25, 50, 75]))
        return cls(median, low, high, len(samples))

    def __str__(self) -> str:
        """Print as ``1.23 ms (1.20–1.31)``."""
        median, low, high = (_digits(x) for x in (self.median, self.low, self.high))
        return f"{median} ms ({low}-{high})"


def _digits(number: float) -> str:
    """Print three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


class Timed(Protocol):
    """Something that runs when asked, and says how long it took."""

    def time(self, feeds: Mapping[str, Array], runs: int, seconds: float) -> list[float]:
        """Return the milliseconds of each run: ``runs`` of them, or fewer once ``seconds`` are spent."""
        ...


def compare_speed(
    workers: Sequence[Timed],
    feeds: Sequence[Mapping[str, Array]],
    *,
    rounds: int = 7,
    block_seconds: float = 0.12,
    together: bool = True,
) -> list[Timing]:
    """Time each worker on its own feeds, in alternating blocks with a pause between them.

    The order within a round turns over from round to round. A model that takes longer than a block gets one run a
    block. Workers that cannot be loaded ``together`` change places twice only: half of the first one's blocks come
    before those of the others and half behind them.
    """
    samples: list[list[float]] = [[] for _ in workers]
    order = _alternating(len(workers), rounds) if together else _enclosing(len(workers), rounds)
    warm: set[int] = set()
    for k in order:
        if k not in warm:
            warm = {*warm, k} if together else {k}
            workers[k].time(feeds[k], 3, block_seconds)
        time.sleep(0.02)
        found = workers[k].time(feeds[k], 200, block_seconds)
        samples[k].append(float(np.median(found)))
    return [Timing.of(found) for found in samples]


def _alternating(count: int, rounds: int) -> list[int]:
    """Return 0 1 1 0 0 1 …"""
    forward = list(range(count))
    return [k for turn in range(rounds) for k in (forward if turn % 2 == 0 else forward[::-1])]


def _enclosing(count: int, rounds: int) -> list[int]:
    """Return 0 0 0 1 1 1 1 1 1 0 0 0: a drift of the machine's speed falls on both alike."""
    half = rounds // 2
    inner = [k for k in range(1, count) for _ in range(rounds)]
    return [0] * half + inner + [0] * (rounds - half)


def slower(before: Timing, after: Timing, margin: float = 0.05) -> bool:
    """Tell whether ``after`` is slower beyond doubt: by the margin, and with quartiles that do not meet."""
    return after.median > before.median * (1 + margin) and after.low > before.high
