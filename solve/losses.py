"""What a plan loses: its outputs against the source's, computed wherever an executor sends it."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.ir.array import Array
from whet.solve.allocation import Doubles

__all__ = ["Files", "Loss", "divergence", "opened", "output_loss", "samples_of"]

Feeds = Mapping[str, Array]
Files = Mapping[str, bytes]
"""Names and contents of the files of an artifact."""


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


@dataclasses.dataclass(frozen=True)
class Loss:
    """Runs a lowered model in a process of its own, and says what it loses; can be sent to another machine."""

    batches: tuple[Feeds, ...]
    wanted: tuple[Sequence[Array], ...]
    """What the source says to each batch."""
    runtime: RuntimeOptions
    target: str
    categorical: bool

    def __call__(self, files: Files) -> float:
        """Return the mean loss over samples."""
        with opened(files, self.runtime, self.target) as worker:
            return self.of([worker.run(feeds) for feeds in self.batches])

    def of(self, found: Sequence[Sequence[Array]]) -> float:
        """Return the mean loss of outputs ``[batch][output]``; 0 without samples."""
        judge: Callable[[Sequence[Array], Sequence[Array]], float] = output_loss
        if self.categorical:
            judge = lambda old, new: divergence(old[0], new[0])  # noqa: E731 (one word for both)
        losses = [judge(old, new) for old, new in zip(self.wanted, found, strict=True)]
        counts = [samples_of(feeds) for feeds in self.batches]
        return float(np.average(losses, weights=counts)) if losses else 0.0


@contextlib.contextmanager
def opened(files: Files, runtime: RuntimeOptions, target: str) -> Generator[Worker]:
    """Write the files of an artifact, and load it in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        with Worker(Path(name) / "model.onnx", runtime, target) as worker:
            yield worker


def samples_of(feeds: Feeds) -> int:
    """Return how many samples a batch holds."""
    return max((len(a) for a in feeds.values() if a.ndim), default=1)


def _log_softmax(logits: Array) -> Doubles:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))
