"""Compare models in milliseconds: alternating blocks of one run, medians with spread."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from whet.backends.worker import Worker
from whet.ir.values import Array

__all__ = ["Timing", "compare_speed", "slower"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds per run."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""
    runs: int

    def __str__(self) -> str:
        """Print as ``1.23 ms (1.20–1.31)``."""
        median, low, high = (_digits(x) for x in (self.median, self.low, self.high))
        return f"{median} ms ({low}-{high})"


def _digits(number: float) -> str:
    """Print three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def compare_speed(
    workers: Sequence[Worker],
    feeds: Sequence[Mapping[str, Array]],
    *,
    rounds: int = 7,
    block_seconds: float = 0.12,
) -> list[Timing]:
    """Time each worker on its own feeds, in alternating blocks with a pause between them.

    The order within a round turns over from round to round. A model that takes longer than a block gets one run a
    block.
    """
    samples: list[list[float]] = [[] for _ in workers]
    for worker, feed in zip(workers, feeds, strict=True):
        worker.time(feed, 3, block_seconds)
    for number in range(rounds):
        order = range(len(workers)) if number % 2 == 0 else reversed(range(len(workers)))
        for k in order:
            time.sleep(0.02)
            found = workers[k].time(feeds[k], 200, block_seconds)
            samples[k].append(float(np.median(found)))
    return [_summary(s) for s in samples]


def _summary(samples: Sequence[float]) -> Timing:
    low, median, high = (float(q) for q in np.percentile(samples, [25, 50, 75]))
    return Timing(median, low, high, len(samples))


def slower(before: Timing, after: Timing, margin: float = 0.05) -> bool:
    """Tell whether ``after`` is slower beyond doubt: by the margin, and with quartiles that do not meet."""
    return after.median > before.median * (1 + margin) and after.low > before.high
