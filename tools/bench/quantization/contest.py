"""Time files of models against each other, in alternating blocks and processes of their own, and say how they stand."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing, compare_speed
from whet.backends.worker import Worker
from whet.ir.values import Array

__all__ = ["Feeds", "contest", "standings"]

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


def standings(
    what: str, models: Mapping[str, Path], times: Mapping[str, Timing], judge: Callable[[Path], str]
) -> Iterator[tuple[str, str]]:
    """Yield each model's name and a line: its time and bytes, also as shares of the first model's, and a judgement."""
    first = next(iter(models))
    for name, path in models.items():
        share, size = times[name].median / times[first].median, path.stat().st_size
        yield (
            name,
            f"{what} {name:30} {times[name]!s:28} {share:.3f}x the time, {size:10,} bytes, "
            f"{size / models[first].stat().st_size:.3f}x, {judge(path)}",
        )
