"""Time models side by side, each in a process of its own, in alternating blocks."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whet.backends.measure import Timing, compare_speed
from whet.backends.worker import Worker
from whet.errors import InvalidModel
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.tools.inputs import make_cases, rename_inputs
from whet.tools.subjects import Subject

__all__ = ["Measured", "Settings", "benchmark"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one model costs."""

    label: str
    time: Timing
    bytes: int
    load_seconds: float
    peak_bytes: int
    inputs: str
    """What it was run on, in words."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the models are run."""

    target: str = "onnxruntime"
    threads: int | None = None
    rounds: int = 7
    seed: int = 0
    feeds: Path | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])


def benchmark(
    subjects: Sequence[Subject], settings: Settings, progress: Callable[[str], None]
) -> list[Measured]:
    """Measure all of them on the inputs of the first; larger ``rounds`` narrow the quartiles."""
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        for subject in subjects:
            progress(f"load {subject.label}")
            workers.append(stack.enter_context(subject.open(settings.target, settings.threads)))
        first = subjects[0]
        words, feeds = make_cases(first, workers[0], settings.feeds, settings.sizes, settings.seed)[
            0
        ]
        given: list[Mapping[str, Array]] = []
        for subject, worker in zip(subjects, workers, strict=True):
            given.append(rename_inputs(feeds, worker.inputs, subject.label))
            _try(subject, worker, given[-1])
        progress(f"measure {len(subjects)} model(s), {settings.rounds} rounds")
        times = compare_speed(workers, given, rounds=settings.rounds)
        return [
            Measured(s.label, t, s.bytes, w.load_seconds, w.peak_bytes(), words)
            for s, t, w in zip(subjects, times, workers, strict=True)
        ]


def _try(subject: Subject, worker: Worker, feeds: Mapping[str, Array]) -> None:
    try:
        worker.run(feeds)
    except CannotRun as error:
        raise InvalidModel(f"'{subject.label}' does not run on these inputs: {error}") from error
