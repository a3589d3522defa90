"""Calibration samples in memory, drawn in batches of equal shapes; a part of them is kept to watch training by."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.dataset import batch_size, leading
from whet.ir.values import Array

__all__ = ["Batch", "Samples"]

Feeds = Mapping[str, Array]
Indices = NDArray[np.intp]
_WATCHED = 10
"""Every so many samples one is watched by."""
_MOST_WATCHED = 512
_SMALL, _LARGE = 1 << 12, 1 << 16
"""Elements of a sample up to which 128, and from which 8 samples make a batch; 32 between."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples by number, and their arrays."""

    numbers: tuple[int, ...]
    feeds: Feeds


class Samples:
    """Units that batches are put together of: single samples, or whole feeds where the model fixes its batch."""

    def __init__(self, model: onnx_ir.Model, batches: Sequence[Feeds], most_bytes: int) -> None:
        """Take feeds until ``most_bytes`` are in memory."""
        self.fixed = batch_size(model, default=0) != 0
        self._feeds = list(_first(batches, most_bytes))
        self.complete = len(self._feeds) == len(batches)
        self._places = [
            (k, row) for k, feeds in enumerate(self._feeds) for row in self._rows(feeds)
        ]
        numbers = np.arange(len(self._places))
        step = max(_WATCHED, len(numbers) // _MOST_WATCHED)
        watched = numbers % step == step - 1 if len(numbers) >= step else numbers % 2 == 1
        self.watched, self.trained = numbers[watched], numbers[~watched]

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self._places)

    def _rows(self, feeds: Feeds) -> list[int]:
        count = None if self.fixed else leading(feeds)
        return [-1] if count is None else list(range(count))

    def usual_batch(self) -> int:
        """Return how many samples make a batch where nobody says: fewer of large ones, and of sequences."""
        feeds = self._feeds[0]
        count = max((len(a) for a in feeds.values() if a.ndim), default=1)
        largest = max((a.size // max(count, 1) for a in feeds.values()), default=1)
        if largest >= _LARGE:
            return 8
        real = any(a.dtype.kind == "f" for a in feeds.values())
        return 128 if real and largest <= _SMALL else 32

    def batches(self, numbers: Indices, size: int) -> Iterator[Batch]:
        """Yield batches of up to ``size`` of the given units, in order, each of equal shapes."""
        for part in self._parts(numbers, size):
            yield self._batch(part)

    def epoch(self, rng: np.random.Generator, size: int) -> Iterator[Batch]:
        """Yield every trained-on unit once, in an order drawn anew."""
        parts = list(self._parts(rng.permutation(self.trained), size))
        for k in rng.permutation(len(parts)):
            yield self._batch(parts[k])

    def _parts(self, numbers: Indices, size: int) -> Iterator[list[int]]:
        groups: dict[object, list[int]] = {}
        for number in numbers.tolist():
            groups.setdefault(self._kind(number), []).append(number)
        for group in groups.values():
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def _kind(self, number: int) -> object:
        """Return what units must share to be put into one batch."""
        place, row = self._places[number]
        if row < 0:
            return number
        return tuple((n, a.shape[1:], a.dtype.str) for n, a in sorted(self._feeds[place].items()))

    def _batch(self, numbers: Sequence[int]) -> Batch:
        places = [self._places[number] for number in numbers]
        first = self._feeds[places[0][0]]
        if places[0][1] < 0:
            return Batch(tuple(numbers), first)
        feeds = {n: np.stack([self._feeds[k][n][row] for k, row in places]) for n in first}
        return Batch(tuple(numbers), feeds)


def _first(batches: Sequence[Feeds], most_bytes: int) -> Iterator[Feeds]:
    for feeds in batches:
        most_bytes -= sum(array.nbytes for array in feeds.values())
        if most_bytes < 0:
            return
        yield feeds
