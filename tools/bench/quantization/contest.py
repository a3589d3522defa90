"""Time files of models against each other: alternating blocks, each model in a process of its own."""

from collections.abc import Mapping
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing, compare_speed
from whet.backends.worker import Worker
from whet.ir.values import Array

__all__ = ["Feeds", "contest"]

Feeds = Mapping[str, Array]


def contest(
    models: Mapping[str, Path], feeds: Feeds, threads: int, rounds: int = 11
) -> dict[str, Timing]:
    """Return what each model takes on ``feeds``."""
    workers = [Worker(path, RuntimeOptions(threads)) for path in models.values()]
    try:
        found = compare_speed(workers, [feeds] * len(workers), rounds=rounds, block_seconds=0.2)
    finally:
        for worker in workers:
            worker.close()
    return dict(zip(models, found, strict=True))
