"""The smallest and the largest number, overall or for each channel."""

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

__all__ = ["Bounds", "Extremes", "MaxMagnitude"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Smallest and largest numbers: scalars, or ``[channels]``."""

    low: Doubles
    high: Doubles


@dataclasses.dataclass(frozen=True)
class Extremes(Statistic[Bounds]):
    """The extremes of all numbers, or those at each index of ``axis``."""

    axis: int | None = None

    def start(self) -> Accumulator[Bounds]:
        """Return an accumulator that keeps two numbers a channel."""
        return _Widening(self.axis)


@dataclasses.dataclass(frozen=True)
class MaxMagnitude(Statistic[Doubles]):
    """max |x| at each index of ``axis``, ``[channels]``."""

    axis: int = -1

    def start(self) -> Accumulator[Doubles]:
        """Return an accumulator that keeps two numbers a channel."""
        return _Magnitude(self.axis)


class _Widening(Accumulator[Bounds]):
    notices: ClassVar[bool] = True

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._low: Doubles | None = None
        self._high: Doubles | None = None

    def add(self, array: Array) -> None:
        low, high = (_reduced(ufunc, array, self._axis) for ufunc in (np.minimum, np.maximum))
        check_finite(low)
        check_finite(high)
        if self._low is None or self._high is None:
            self._low, self._high = low, high
        elif self._low.shape != low.shape:
            raise CalibrationError(
                f"calibration data: {len(low)} channels along axis {self._axis}, {len(self._low)} before"
            )
        else:
            self._low = np.minimum(self._low, low)
            self._high = np.maximum(self._high, high)

    def result(self) -> Bounds:
        if self._low is None or self._high is None:
            raise CalibrationError("calibration data: no batch was seen")
        return Bounds(self._low, self._high)


class _Magnitude(Accumulator[Doubles]):
    notices: ClassVar[bool] = True

    def __init__(self, axis: int) -> None:
        self._range = _Widening(axis)

    def add(self, array: Array) -> None:
        self._range.add(array)

    def result(self) -> Doubles:
        bounds = self._range.result()
        return np.maximum(-bounds.low, bounds.high)


def _reduced(ufunc: np.ufunc, array: Array, axis: int | None) -> Doubles:
    """Return minima or maxima in float64; NaN anywhere comes out as NaN."""
    if axis is None:
        return np.asarray(ufunc.reduce(array, axis=None), np.float64)
    view = by_channel(array, axis)
    inner = view[:, :, 0] if view.shape[2] == 1 else ufunc.reduce(view, axis=2)
    return np.asarray(ufunc.reduce(inner, axis=0), np.float64)
