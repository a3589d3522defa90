"""Statistics of a value per channel, and some of its vectors as they are."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from whet.analysis.statistics import Accumulator, Statistic
from whet.errors import CalibrationError
from whet.ir.values import Array

__all__ = ["Channels", "PerChannel", "Rows"]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class PerChannel:
    """What each channel of a value was seen to be."""

    low: Floats
    high: Floats
    square: Floats
    """Mean of x²."""
    mean: Floats

    @property
    def peak(self) -> Floats:
        """Return the largest magnitude."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclasses.dataclass(frozen=True)
class Channels(Statistic[PerChannel]):
    """Extremes, mean square and mean of every index of an axis; all other axes count samples."""

    axis: int = -1

    def start(self) -> Accumulator[PerChannel]:
        """Return sums of nothing."""
        return _Sums(self.axis)


class _Sums(Accumulator[PerChannel]):
    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = 0
        self._found: tuple[Floats, Floats, Floats, Floats] | None = None

    def add(self, array: Array) -> None:
        rows = _rows(array, self._axis).astype(np.float64)
        if not len(rows):
            return
        new = (rows.min(0), rows.max(0), np.square(rows).sum(0), rows.sum(0))
        self._count += len(rows)
        if self._found is None:
            self._found = new
            return
        low, high, square, total = self._found
        self._found = (
            np.minimum(low, new[0]),
            np.maximum(high, new[1]),
            square + new[2],
            total + new[3],
        )

    def result(self) -> PerChannel:
        if self._found is None:
            raise CalibrationError("calibration data: no batch was seen")
        low, high, square, total = self._found
        return PerChannel(low, high, square / self._count, total / self._count)


@dataclasses.dataclass(frozen=True)
class Rows(Statistic[Array]):
    """Up to ``count`` vectors along an axis, the same number from each batch, evenly spaced."""

    axis: int = -1
    count: int = 512
    batch: int = 64

    def start(self) -> Accumulator[Array]:
        """Return an empty list."""
        return _Sample(self)


class _Sample(Accumulator[Array]):
    def __init__(self, wanted: Rows) -> None:
        self._wanted = wanted
        self._parts: list[Array] = []
        self._have = 0

    def add(self, array: Array) -> None:
        left = min(self._wanted.batch, self._wanted.count - self._have)
        rows = _rows(array, self._wanted.axis)
        if left <= 0 or not len(rows):
            return
        kept = np.unique(np.linspace(0, len(rows) - 1, left).astype(np.intp))
        self._parts.append(rows[kept].copy())
        self._have += len(kept)

    def result(self) -> Array:
        if not self._parts:
            raise CalibrationError("calibration data: no batch was seen")
        return np.concatenate(self._parts)


def _rows(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
