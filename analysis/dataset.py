"""Samples in the order in which they came, put together into batches when they are asked for."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import onnx_ir

from whet.ir.values import Array, dimensions

__all__ = ["Batches", "Dataset", "Feeds", "batch_size", "leading"]

Feeds = Mapping[str, Array]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
_ENOUGH = 8
"""Fewer samples are too few to hold some of them back."""
_MOST_HELD = 256


def batch_size(model: onnx_ir.Model, default: int = 32) -> int:
    """Return the batch that the model's inputs fix, or ``default`` where the leading dimension is free."""
    inputs = [v for v in model.graph.inputs if v.const_value is None]
    sizes = {(dimensions(v) or (None,))[0] for v in inputs if dimensions(v) != ()}
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if fixed else default


def leading(feeds: Feeds) -> int | None:
    """Return how many samples a feed holds: the leading size that all its arrays share, or None if they do not."""
    sizes = {array.shape[0] if array.ndim else None for array in feeds.values()}
    return sizes.pop() if len(sizes) == 1 else None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples for every input of a model, and labels if there are any."""

    pieces: tuple[Feeds, ...]
    """Feeds of one or more samples each; sizes of dynamic dimensions may differ between them."""
    labels: Array | None = None
    unit: int = 1
    """So many samples in a row stay together: the batch that the model fixes."""
    whole: bool = False
    """Whether a feed is one call that cannot be divided, since its arrays do not count the same samples."""
    chosen: Indices | None = None
    """Which samples these are, in ascending order; all of them without it."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    @cached_property
    def _starts(self) -> Indices:
        """Return the number of the first sample of each piece, and the number of samples."""
        sizes = [1 if self.whole else leading(piece) or 0 for piece in self.pieces]
        return np.cumsum([0, *sizes])

    @cached_property
    def _samples(self) -> Indices:
        return np.arange(self._starts[-1]) if self.chosen is None else self.chosen

    def batches(self, size: int) -> "Batches":
        """Return feeds of up to ``size`` samples; only samples of the same shapes, one behind the other, share one."""
        return Batches(self, 1 if self.whole else size)

    def held_out(self) -> tuple["Dataset", "Dataset"]:
        """Return the samples to fit on, and a tenth to judge by, evenly spaced; none of fewer than eight samples.

        At least two are held out, at most 256; a model that fixes its batch gets whole batches.
        """
        unit = 1 if self.whole else self.unit
        groups = len(self) // unit
        if groups < _ENOUGH:
            return self, self._of(self._samples[:0])
        step = groups // min(max(2, groups // 10), _MOST_HELD)
        numbers = np.arange(len(self)) // unit
        taken = numbers % step == step - 1
        taken &= numbers // step < _MOST_HELD
        return self._of(self._samples[~taken]), self._of(self._samples[taken])

    def halves(self) -> tuple["Dataset", "Dataset"]:
        """Return every other sample, and those between; a model that fixes its batch gets whole batches."""
        unit = 1 if self.whole else self.unit
        even = np.arange(len(self)) // unit % 2 == 0
        return self._of(self._samples[even]), self._of(self._samples[~even])

    def _of(self, samples: Indices) -> "Dataset":
        labels = (
            None if self.labels is None else self.labels[np.searchsorted(self._samples, samples)]
        )
        return dataclasses.replace(self, labels=labels, chosen=samples)

    def runs(self, size: int) -> Iterator[Indices]:
        """Yield the samples of each batch."""
        piece = np.searchsorted(self._starts, self._samples, side="right") - 1
        kinds: dict[object, int] = {}
        kind_of = np.asarray(
            [
                kinds.setdefault(_signature(p, k, self.whole), len(kinds))
                for k, p in enumerate(self.pieces)
            ]
        )
        kind = kind_of[piece] if len(piece) else piece
        borders = np.flatnonzero(np.diff(kind)) + 1
        for part in np.split(self._samples, borders):
            for start in range(0, len(part), size):
                yield part[start : start + size]

    def kind(self, sample: int) -> object:
        """Return what all samples of the same shapes have in common."""
        piece = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return _signature(self.pieces[piece], piece, self.whole)

    def gather(self, samples: Indices) -> dict[str, Array]:
        """Return some samples as one feed, in memory and aligned."""
        piece = np.searchsorted(self._starts, samples, side="right") - 1
        parts: list[dict[str, Array]] = []
        for number in dict.fromkeys(piece.tolist()):
            rows = samples[piece == number] - self._starts[number]
            parts.append({n: self._rows(a, rows) for n, a in self.pieces[number].items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _rows(self, array: Array, rows: Indices) -> Array:
        if self.whole:
            return np.array(array)
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first == len(rows):
            return np.array(array[first:last])
        return np.array(array[rows])


def _signature(piece: Feeds, number: int, whole: bool) -> object:
    """Return what samples must share to be put into one batch."""
    if whole:
        return number
    return tuple(sorted((name, a.shape[1:], a.dtype.str) for name, a in piece.items()))


class Batches(Sequence[Feeds]):
    """Feeds that are put together each time they are asked for; iterate rather than index to see all of them."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        """Cut the dataset into batches of up to ``size`` samples."""
        self._dataset = dataset
        self._runs = list(dataset.runs(size))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feeds]: ...
    def __getitem__(self, index: int | slice) -> Feeds | list[Feeds]:
        """Return one batch, or some."""
        if isinstance(index, slice):
            return [self._dataset.gather(run) for run in self._runs[index]]
        return self._dataset.gather(self._runs[index])

    @property
    def samples(self) -> int:
        """Return how many samples there are in all batches."""
        return len(self._dataset)

    def kinds(self) -> Iterator[Feeds]:
        """Yield one sample (or one batch, where the model fixes it) of each combination of shapes."""
        seen: set[object] = set()
        for run in self._runs:
            kind = self._dataset.kind(int(run[0]))
            if kind not in seen:
                seen.add(kind)
                yield self._dataset.gather(run[: self._dataset.unit])
