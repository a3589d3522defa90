"""Mean and variance, overall or for each channel.

Batches are merged by the pairwise rule of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979: M2 = M2a + M2b + (mb - ma)² na nb / (na + nb).
"""

import dataclasses
from typing import ClassVar

import numpy as np

from whet.analysis.statistics.base import (
    Accumulator,
    Doubles,
    Statistic,
    by_channel,
    check_finite,
)
from whet.errors import CalibrationError
from whet.ir.values import Array

__all__ = ["Moments", "Spread"]

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and variance (divided by the count), scalars or ``[channels]``, over ``count`` numbers a channel."""

    mean: Doubles
    variance: Doubles
    count: int


@dataclasses.dataclass(frozen=True)
class Moments(Statistic[Spread]):
    """The first two moments of all numbers, or of those at each index of ``axis``."""

    axis: int | None = None

    def start(self) -> Accumulator[Spread]:
        """Return an accumulator that keeps two numbers a channel."""
        return _Sums(self.axis)


class _Sums(Accumulator[Spread]):
    notices: ClassVar[bool] = True

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._count = 0
        self._mean: Doubles = np.zeros(())
        self._squares: Doubles = np.zeros(())

    def add(self, array: Array) -> None:
        view = array.reshape(-1, 1, 1) if self._axis is None else by_channel(array, self._axis)
        step = max(1, _BLOCK // (view.shape[1] * view.shape[2]))
        for start in range(0, len(view), step):
            self._merge(view[start : start + step].astype(np.float64))

    def _merge(self, view: Doubles) -> None:
        count = view.shape[0] * view.shape[2]
        mean = view.mean(axis=(0, 2))
        check_finite(mean)
        squares = np.square(view - mean[:, None]).sum(axis=(0, 2))
        total = self._count + count
        gap = mean - self._mean
        self._mean = self._mean + gap * (count / total)
        self._squares = self._squares + squares + gap**2 * (self._count * count / total)
        self._count = total

    def result(self) -> Spread:
        if not self._count:
            raise CalibrationError("calibration data: no batch was seen")
        variance = self._squares / self._count
        if self._axis is None:
            return Spread(self._mean.reshape(()), variance.reshape(()), self._count)
        return Spread(self._mean, variance, self._count)
