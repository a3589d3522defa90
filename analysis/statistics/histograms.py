"""Histograms that need no second pass: their range grows by powers of two while counts are merged.

A bin is [k w, (k + 1) w) with w = 2^exponent. Scaling by a power of two is exact and floor(x / 2w) =
floor(floor(x / w) / 2), so that neighbours merge without error: the counts of a set of numbers are the same in
whatever order and in whatever batches they come.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from whet.analysis.statistics.base import Accumulator, Doubles, NotFinite, Statistic, thin
from whet.errors import CalibrationError
from whet.ir.values import Array

__all__ = ["Counts", "Histogram", "count"]

Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_RESOLUTION = 30
"""A bin is never narrower than 2^-30 of the largest magnitude, however close the numbers are to each other."""
_FINEST = -160
"""Nor than 2^-160, which is below every float32."""
_BLOCK = 1 << 19


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many numbers fell into each bin."""

    numbers: Integers
    first: int
    """The first bin begins at first * width."""
    exponent: int
    low: float
    """The smallest number, exactly."""
    high: float
    zeros: int
    """How many were exactly zero; they are in a bin too."""
    limit: int
    """At most so many bins."""

    @property
    def width(self) -> float:
        """Return how wide a bin is."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """Return how many numbers were counted."""
        return int(self.numbers.sum())

    @property
    def centers(self) -> Doubles:
        """Return the middles of the bins."""
        return (self.first + 0.5 + np.arange(len(self.numbers))) * self.width

    def merged(self, other: "Counts") -> "Counts":
        """Return the histogram of both sets of numbers."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        limit = min(self.limit, other.limit)
        exponent = max(_exponent(low, high, limit), self.exponent, other.exponent)
        first, last = _bin(low, exponent), _bin(high, exponent)
        numbers = np.zeros(last - first + 1, np.int64)
        for part in (self, other):
            bins = (part.first + np.arange(len(part.numbers))) >> (exponent - part.exponent)
            np.add.at(numbers, bins - first, part.numbers)
        zeros = self.zeros + other.zeros
        return Counts(numbers, first, exponent, low, high, zeros, limit)


@dataclasses.dataclass(frozen=True)
class Histogram(Statistic[Counts]):
    """How often each magnitude occurs, in at most ``bins`` bins."""

    bins: int = 4096
    per_sample: int = 0
    """Count about so many numbers, evenly spaced, of each sample (index of the first axis); 0 counts all."""

    def start(self) -> Accumulator[Counts]:
        """Return an accumulator that keeps one histogram."""
        return _Merging(self)


class _Merging(Accumulator[Counts]):
    notices: ClassVar[bool] = True

    def __init__(self, options: Histogram) -> None:
        self._options = options
        self._found: Counts | None = None

    def add(self, array: Array) -> None:
        rows = array.reshape(len(array) if array.ndim else 1, -1)
        step = thin(rows.shape[1], self._options.per_sample)
        flat = np.ascontiguousarray(rows[:, ::step]).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            found = count(flat[start : start + _BLOCK], self._options.bins)
            self._found = found if self._found is None else self._found.merged(found)

    def result(self) -> Counts:
        if self._found is None:
            raise CalibrationError("calibration data: no batch was seen")
        return self._found


def count(array: Array, bins: int = 4096) -> Counts:
    """Return the histogram of all numbers of an array that is not empty; raises NotFinite."""
    wide: Doubles = array.reshape(-1).astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFinite(f"the numbers reach from {low} to {high}")
    exponent = _exponent(low, high, bins)
    first = _bin(low, exponent)
    zeros = wide.size - int(np.count_nonzero(wide))
    wide *= math.ldexp(1.0, -exponent)
    np.floor(wide, out=wide)
    wide -= first
    numbers = np.bincount(wide.astype(np.intp)).astype(np.int64, copy=False)
    return Counts(numbers, first, exponent, low, high, zeros, bins)


def _bin(number: float, exponent: int) -> int:
    return math.floor(math.ldexp(number, -exponent))


def _exponent(low: float, high: float, bins: int) -> int:
    """Return the smallest exponent at which the bins suffice; it never falls when the range grows."""
    largest = math.frexp(max(abs(low), abs(high)))[1]
    exponent = max(_FINEST, largest - _RESOLUTION, math.frexp((high - low) / bins)[1] - 2)
    while _bin(high, exponent) - _bin(low, exponent) >= bins:
        exponent += 1
    return exponent
