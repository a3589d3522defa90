"""The user's metric: top-1 accuracy by labels, or a function; in a search, one part of the labels is kept unseen."""

import hashlib
import inspect
import time

import numpy as np

from whet.analysis.calibration import Dataset
from whet.backends.base import Runner
from whet.backends.worker import Worker
from whet.comparison import hits
from whet.errors import UsageError
from whet.evaluation import Evaluation
from whet.options import Evaluate
from whet.solve.allocation import Doubles
from whet.solve.drop_interval import Interval, drop_interval
from whet.solve.measuring import Scores

__all__ = ["Metric", "interval"]


class Metric:
    """Scores models, if there is anything to score them by; the source is scored once."""

    def __init__(
        self, labels: Dataset | None, evaluate: Evaluate | None, batch: int, *, split: bool = False
    ) -> None:
        """Score by ``evaluate`` or by ``labels``; with ``split`` every other sample is for :meth:`search` alone.

        A function is told so by its parameter ``part``, if it has one.
        """
        self._evaluate = evaluate
        self._split = split
        self._batch = batch
        self._seen, self._labels = (None, labels)
        if split and labels is not None and evaluate is None:
            self._seen, self._labels = labels.halves()
        self._source: Scores | None = None
        self.seconds = 0.0
        """What scoring the source took."""

    def __bool__(self) -> bool:
        return self._labels is not None or self._evaluate is not None

    @property
    def stamp(self) -> str | None:
        """Return what stands for the metric and its data; None for a function, which may have changed."""
        if isinstance(self._evaluate, Evaluation):
            return self._evaluate.stamp
        if self._evaluate is not None:
            return None
        data = self._labels if self._seen is None else self._seen
        if data is None:
            return ""
        found = hashlib.sha256(repr(None if data.labels is None else data.labels.tolist()).encode())
        for feeds in data.batches(self._batch):
            for name, array in sorted(feeds.items()):
                found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def of(self, worker: Runner) -> Scores:
        """Return the metric of a loaded model, on samples that no search has seen if it was split."""
        return self._score(worker, self._labels, "unseen" if self._split else "all")

    def search(self, worker: Worker) -> Scores:
        """Return the metric on the samples that a search may see."""
        return self._score(worker, self._labels if self._seen is None else self._seen, "search")

    def of_source(self, worker: Runner) -> Scores:
        """Return the metric of the source, which does not change."""
        if self._source is None:
            start = time.perf_counter()
            self._source = self.of(worker)
            self.seconds = time.perf_counter() - start
        return self._source

    def _score(self, worker: Runner, labels: Dataset | None, part: str) -> Scores:
        if self._evaluate is not None:
            return _evaluated(self._evaluate, worker, part)
        assert labels is not None
        right = hits(worker, labels, self._batch)
        return Scores(float(right.mean()), right)


def _evaluated(evaluate: Evaluate, worker: Runner, part: str) -> Scores:
    """Call the user's function; raises UsageError for what is no metric."""
    found = np.asarray(evaluate(worker, part=part) if _parted(evaluate) else evaluate(worker))
    if found.dtype.kind not in "fiub" or found.ndim > 1 or not found.size:
        raise UsageError(
            f"evaluate returned {found.dtype} of shape {list(found.shape)}, expected a number, or one for each sample"
        )
    wide: Doubles = found.astype(np.float64)
    if not np.isfinite(wide).all():
        raise UsageError("evaluate returned a number that is not finite")
    return Scores(float(wide.mean()), wide if wide.ndim and len(wide) > 1 else None)


def _parted(evaluate: Evaluate) -> bool:
    try:
        return "part" in inspect.signature(evaluate).parameters
    except ValueError:  # what C code defines may have no signature
        return False


def interval(before: Scores, after: Scores, seed: int) -> Interval | None:
    """Return the drop with its confidence interval; None for a metric that is no mean over samples."""
    one, other = before.samples, after.samples
    if one is None or other is None or len(one) < 2:
        return None
    found: Doubles = np.asarray(other, np.float64)
    return drop_interval(one, found, seed=seed)
