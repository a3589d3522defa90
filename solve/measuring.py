"""Measure whole plans: bytes of the lowered file, milliseconds, the loss, the metric of every sample."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir

from whet.backends.base import RuntimeOptions, Target
from whet.backends.measure import compare_speed
from whet.backends.worker import Worker
from whet.ir.array import Array
from whet.passes.pipeline import Pipeline
from whet.passes.workbench import Context
from whet.solve.allocation import Doubles
from whet.solve.apply_plan import Chosen
from whet.solve.grafting import Grafter

__all__ = ["Measurement", "Scorer", "Scores", "Yardstick", "divergence", "output_loss"]

Feeds = Mapping[str, Array]
_SAMPLES = 256
"""Samples that losses of plans are measured on; those held out come first."""


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


def divergence(old: Array, new: Array) -> float:
    """Return the mean of KL(softmax(old) || softmax(new)) over all positions, ``[…, classes]``."""
    p, q = _log_softmax(old), _log_softmax(new)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def output_loss(old: Sequence[Array], new: Sequence[Array]) -> float:
    """Return half the squared distance of all float outputs over their squared norm, its mean over samples."""
    lost: Doubles | float = 0.0
    whole: Doubles | float = 0.0
    for before, after in zip(old, new, strict=True):
        if before.dtype.kind != "f" or not before.ndim:
            continue
        a = before.astype(np.float64).reshape(len(before), -1)
        lost = lost + np.square(after.astype(np.float64).reshape(a.shape) - a).sum(1)
        whole = whole + np.square(a).sum(1)
    return float(np.mean(0.5 * lost / np.maximum(whole, np.finfo(np.float64).tiny)))


def _enough(batches: Iterable[Feeds]) -> Iterator[Feeds]:
    """Yield the first batches, until there are enough samples."""
    count = 0
    for feeds in batches:
        if count >= _SAMPLES:
            return
        count += max((len(a) for a in feeds.values() if a.ndim), default=1)
        yield feeds


def _log_softmax(logits: Array) -> Doubles:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


class Yardstick:
    """Measures models on the target, each in a process of its own."""

    def __init__(
        self,
        target: Target,
        options: RuntimeOptions,
        context: Context,
        *,
        categorical: bool,
        score: Scorer | None,
        timed: bool,
    ) -> None:
        """Judge losses on held-out data and as many others, as divergences of the first output if ``categorical``."""
        self._target = target
        self._options = options
        self._context = context
        self._categorical = categorical
        self._score = score
        self._timed = timed
        self._batches = list(_enough(itertools.chain(context.held_out, context.calibration)))
        self._wanted: list[list[Array]] = []

    def source(self, model: onnx_ir.Model) -> Measurement:
        """Measure the model that all others are compared with; comes first."""
        return self._measure(model, reference=True)

    def plan(
        self, model: onnx_ir.Model, chosen: Sequence[Chosen], tail: Pipeline, *, whole: bool = True
    ) -> Measurement:
        """Measure a model with the pieces of a plan in place; unless it is to be the ``whole``, only the loss.

        ``tail`` chooses the runtime's operators.
        """
        made = Grafter(model).replace([c.piece for c in chosen])
        if whole:
            quick = dataclasses.replace(self._context, prove=False, watch=None, score=None)
            made, _ = tail.run(made, quick)
        return self._measure(made, whole=whole)

    def _measure(
        self, model: onnx_ir.Model, *, whole: bool = True, reference: bool = False
    ) -> Measurement:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = self._target.lower(model, folder)
            size = sum((folder / file).stat().st_size for file in files)
            with Worker(folder / "model.onnx", self._options, self._target.name) as worker:
                found = [worker.run(feeds) for feeds in self._batches]
                if reference:
                    self._wanted = found
                scores = self._score(worker) if self._score is not None and whole else None
                ms = self._time(model, worker) if self._timed and whole else None
        return Measurement(size, self._loss(found), ms, scores)

    def _loss(self, found: Sequence[Sequence[Array]]) -> float:
        counts = [
            max((len(a) for a in feeds.values() if a.ndim), default=1) for feeds in self._batches
        ]
        judge: Callable[[Sequence[Array], Sequence[Array]], float] = output_loss
        if self._categorical:
            judge = lambda old, new: divergence(old[0], new[0])  # noqa: E731 (one word for both)
        losses = [judge(old, new) for old, new in zip(self._wanted, found, strict=True)]
        return float(np.average(losses, weights=counts)) if losses else 0.0

    def _time(self, model: onnx_ir.Model, worker: Worker) -> float:
        feeds = self._context.bindings.feeds(model, 0, self._context.seed)
        return compare_speed([worker], [feeds])[0].median
