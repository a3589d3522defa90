"""Time files of models against each other: alternating blocks, each model in processes of its own."""

from collections.abc import Mapping
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing, compare_speed
from whet.backends.worker import Worker
from whet.ir.values import Array

__all__ = ["Feeds", "contest"]

Feeds = Mapping[str, Array]


def contest(
    models: Mapping[str, Path], feeds: Feeds, threads: int, rounds: int = 2, opened: int = 7
) -> dict[str, Timing]:
    """Return what each model takes on ``feeds``: over all processes, the median of their median blocks.

    Each model is ``opened`` anew so often, since where its weights happen to lie lasts as long as a process.
    """
    medians: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(opened):
        workers = [Worker(path, RuntimeOptions(threads)) for path in models.values()]
        try:
            found = compare_speed(workers, [feeds] * len(workers), rounds=rounds, block_seconds=0.1)
        finally:
            for worker in workers:
                worker.close()
        for name, timing in zip(models, found, strict=True):
            medians[name].append(timing.median)
    return {name: Timing.of(samples) for name, samples in medians.items()}
