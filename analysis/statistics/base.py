"""What a statistic is: what is wanted of a value, and how it is gathered batch by batch."""

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import numpy as np

from whet.ir.values import Array

__all__ = ["Accumulator", "Doubles", "NotFinite", "Statistic", "by_channel", "check_finite", "thin"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
T_co = TypeVar("T_co", covariant=True)


class NotFinite(ValueError):
    """A value holds an infinity or something that is not a number."""


class Accumulator(ABC, Generic[T_co]):
    """See a value batch by batch, and say in the end what was wanted."""

    notices: ClassVar[bool] = False
    """Whether :meth:`add` itself raises NotFinite; otherwise the array is checked before it is handed over."""

    @abstractmethod
    def add(self, array: Array) -> None:
        """Take in the value of one batch; it is not empty, and must not be kept."""

    @abstractmethod
    def result(self) -> T_co:
        """Return the statistic of everything that was added."""


@dataclasses.dataclass(frozen=True)
class Statistic(ABC, Generic[T_co]):
    """Say what is wanted of a value; equal statistics of one value are measured once."""

    @abstractmethod
    def start(self) -> Accumulator[T_co]:
        """Return an accumulator that has seen nothing."""


def check_finite(numbers: Array) -> None:
    """Raise NotFinite if anything is infinite or not a number."""
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise NotFinite("a value is infinite or not a number")


def by_channel(array: Array, axis: int) -> Array:
    """Return a view or copy ``[before, channels, after]`` with ``axis`` in the middle."""
    axis %= array.ndim
    shape = array.shape
    return array.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def thin(count: int, most: int) -> int:
    """Return the step at which at most about ``most`` of ``count`` places are visited, 1 for all of them (``most`` 0).

    The step shares no factor with the count, so that regular layouts (channels, rows) are not visited unevenly.
    """
    step = 1 if most <= 0 else max(1, -(-count // most))
    while math.gcd(step, count) > 1:
        step += 1
    return step
