"""Measure whole plans: bytes of the lowered file, milliseconds, the loss, the metric of every sample."""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnx_ir

from whet.backends.base import RuntimeOptions, Target
from whet.backends.measure import compare_speed
from whet.backends.worker import Worker
from whet.ir.array import Array
from whet.passes.pipeline import Pipeline
from whet.passes.workbench import Context
from whet.solve.allocation import Doubles
from whet.solve.apply_plan import Chosen
from whet.solve.executor import Executor, InProcess
from whet.solve.grafting import Grafter
from whet.solve.losses import Files, Loss, opened, samples_of

__all__ = ["Measurement", "Scorer", "Scores", "Yardstick"]

Feeds = Mapping[str, Array]
_LEAST, _MOST, _NUMBERS = 256, 1024, 1 << 22
"""Samples that losses of plans are measured on, the larger number while they hold fewer numbers than this in all; those
held out come first."""


class Scorer(Protocol):
    """Judges a loaded model: larger is better."""

    def __call__(self, worker: Worker) -> "Scores":
        """Return the metric on the part of the data that the search may see."""
        ...


@dataclasses.dataclass(frozen=True)
class Scores:
    """A metric, and what every sample contributes to it, where it is a mean over samples."""

    metric: float
    samples: Doubles | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was seen of one model."""

    bytes: int
    loss: float
    """Mean increase of the loss on held-out samples."""
    ms: float | None = None
    scores: Scores | None = None


class Yardstick:
    """Measures models on the target, each in a process of its own."""

    def __init__(
        self,
        target: Target,
        runtime: RuntimeOptions,
        context: Context,
        *,
        categorical: bool,
        score: Scorer | None,
        timed: bool,
        executor: Executor | None = None,
    ) -> None:
        """Judge losses on held-out data and as many others, as divergences of the first output if ``categorical``.

        Losses are measured on the ``executor``, milliseconds and the metric always here.
        """
        self._target = target
        self._context = context
        self._score = score
        self._timed = timed
        self._executor = executor or InProcess()
        batches = tuple(_enough(itertools.chain(context.held_out, context.calibration)))
        self._loss = Loss(batches, (), runtime, target.spelled, categorical)
        self._source: Measurement | None = None
        self._origin: onnx_ir.Model | None = None

    def source(self, model: onnx_ir.Model) -> Measurement:
        """Measure the model that all others are compared with, once; comes first."""
        if self._source is None:
            files, weight = self._lowered(model)
            with opened(files, self._loss.runtime, self._target.spelled) as worker:
                wanted = tuple(worker.run(feeds) for feeds in self._loss.batches)
                self._loss = dataclasses.replace(self._loss, wanted=wanted)
                self._source = self._seen(model, weight, worker, 0.0)
            self._origin = model
        return self._source

    def as_is(self, model: onnx_ir.Model) -> Measurement:
        """Measure a model without a plan; the first one is the source."""
        if self._source is None or model is self._origin:
            return self.source(model)
        return self._of(model)

    def whole(self, model: onnx_ir.Model, chosen: Sequence[Chosen], tail: Pipeline) -> Measurement:
        """Measure all there is, with a plan's pieces in place; ``tail`` chooses the runtime's operators."""
        made = _grafted(model, chosen)
        quick = dataclasses.replace(self._context, prove=False, watch=None, score=None)
        made, _ = tail.run(made, quick)
        return self._of(made)

    def losses(
        self, model: onnx_ir.Model, plans: Iterable[Sequence[Chosen]]
    ) -> Iterator[Measurement]:
        """Yield bytes and loss of each plan, in their order."""
        sizes: list[int] = []

        def lowered() -> Iterator[Files]:
            for chosen in plans:
                files, weight = self._lowered(_grafted(model, chosen))
                sizes.append(weight)
                yield files

        for number, loss in enumerate(self._executor.map(self._loss, lowered())):
            yield Measurement(sizes[number], loss)

    def _of(self, model: onnx_ir.Model) -> Measurement:
        files, weight = self._lowered(model)
        with opened(files, self._loss.runtime, self._target.spelled) as worker:
            loss = self._loss.of([worker.run(feeds) for feeds in self._loss.batches])
            return self._seen(model, weight, worker, loss)

    def _lowered(self, model: onnx_ir.Model) -> tuple[Files, int]:
        """Return the files, and what they weigh."""
        with tempfile.TemporaryDirectory() as name:
            files = self._target.lower(model, Path(name))
            weight = self._target.weigh(Path(name), files)
            return {file: (Path(name) / file).read_bytes() for file in files}, weight

    def _seen(self, model: onnx_ir.Model, weight: int, worker: Worker, loss: float) -> Measurement:
        scores = self._score(worker) if self._score is not None else None
        ms = None
        if self._timed:
            feeds = self._context.bindings.feeds(model, 0, self._context.seed)
            ms = compare_speed([worker], [feeds])[0].median
        return Measurement(weight, loss, ms, scores)


def _grafted(model: onnx_ir.Model, chosen: Sequence[Chosen]) -> onnx_ir.Model:
    return Grafter(model).replace([c.piece for c in chosen])


def _enough(batches: Iterable[Feeds]) -> Iterator[Feeds]:
    """Yield the first batches, until there are enough samples."""
    count, numbers = 0, 0
    for feeds in batches:
        if count >= _LEAST and (count >= _MOST or numbers >= _NUMBERS):
            return
        count += samples_of(feeds)
        numbers += sum(a.size for a in feeds.values())
        yield feeds
