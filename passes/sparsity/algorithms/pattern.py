"""Which weights go together: alone, N of every M, or in blocks."""

import dataclasses
import re

import numpy as np

from whet.ir.array import Array

__all__ = ["Pattern", "read_pattern"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_SHAPES = re.compile(r"(\d+)([:x])(\d+)")
_WHOLE = 1 << 62


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A matrix ``[outputs, inputs]`` loses units of ``height`` outputs and ``width`` inputs.

    Of ``members`` units side by side at most ``removable`` go; a large number of both is no limit.
    """

    text: str
    height: int = 1
    width: int = 1
    members: int = _WHOLE
    removable: int = _WHOLE

    @property
    def share(self) -> float | None:
        """Return the share of the weights that goes where the pattern itself says so."""
        return None if self.members == _WHOLE else self.removable / self.members

    def obstacle(self, shape: tuple[int, int]) -> str:
        """Return why the pattern does not divide ``(outputs, inputs)``, with what would; empty where it does."""
        outputs, inputs = shape
        if outputs % self.height:
            return f"{outputs} outputs are no multiple of {self.height}, {_fitting(outputs, self.height)} would fit"
        span = self.width if self.share is None else self.members
        if inputs % span:
            return f"{inputs} inputs are no multiple of {span}, {_fitting(inputs, span)} would fit"
        return ""

    def pooled(self, scores: Array) -> Doubles:
        """Return the sum over each unit, ``[outputs / height, inputs / width]``."""
        outputs, inputs = scores.shape
        parts = scores.reshape(
            outputs // self.height, self.height, inputs // self.width, self.width
        )
        return np.asarray(parts.sum((1, 3), dtype=np.float64))

    def spread(self, units: Array) -> Array:
        """Return what every unit has at each of its weights, ``[outputs, inputs]``."""
        return np.repeat(np.repeat(units, self.height, 0), self.width, 1)

    def keep(self, prices: Array, count: int) -> Array:
        """Return where weights stay when the ``count`` cheapest units go; of equals the first.

        ``prices`` are those of units. N:M patterns take their own count out of every group.
        """
        if self.share is not None:
            return self._groups(prices)
        kept = np.ones(prices.size, np.bool)
        kept[np.argsort(prices, axis=None, kind="stable")[:count]] = False
        return self.spread(kept.reshape(prices.shape))

    def _groups(self, scores: Array) -> Array:
        groups = scores.reshape(len(scores), -1, self.members)
        ranks = np.argsort(np.argsort(groups, -1, kind="stable"), -1, kind="stable")
        return np.asarray((ranks >= self.removable).reshape(scores.shape))


def _fitting(size: int, wanted: int) -> int:
    """Return the divisor of ``size`` that is nearest to what was wanted."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


def read_pattern(text: str) -> Pattern:
    """Return the pattern that ``unstructured``, ``N:M`` (N stay) or ``RxC`` (outputs by inputs) stands for.

    Raises ValueError for anything else.
    """
    if text == "unstructured":
        return Pattern(text)
    found = _SHAPES.fullmatch(text)
    if found is None:
        raise ValueError(
            f"pattern '{text}' is none of unstructured, N:M (such as 2:4), RxC (such as 4x1)"
        )
    first, second = int(found[1]), int(found[3])
    if found[2] == "x":
        if not first or not second:
            raise ValueError(f"pattern '{text}' has blocks of {first} by {second} weights")
        return Pattern(text, first, second)
    if not 0 < first < second:
        raise ValueError(f"pattern '{text}' keeps {first} of {second} weights")
    return Pattern(text, members=second, removable=second - first)
