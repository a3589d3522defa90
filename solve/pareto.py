"""Which measured points are worth having: those that no other point beats in everything.

A point is dominated if another one is no worse in bytes, milliseconds and metric, and better in one of them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from whet.errors import UsageError

__all__ = ["Point", "dominators", "front"]


@dataclasses.dataclass(frozen=True)
class Point:
    """One measured model."""

    name: str
    bytes: int
    ms: float | None
    """None where it was not measured: then it counts as slower than anything measured."""
    metric: float
    """Larger is better."""

    def costs(self) -> tuple[float, float, float]:
        """Return the three as numbers of which smaller is better."""
        return float(self.bytes), math.inf if self.ms is None else self.ms, -self.metric


def dominators(points: Sequence[Point]) -> tuple[int | None, ...]:
    """Return per point the index of one that dominates it and is itself dominated by none; None for the front.

    Points equal in all three dominate nothing and are both kept. Raises UsageError if a metric is not a number.
    """
    for point in points:
        if math.isnan(point.metric) or (point.ms is not None and math.isnan(point.ms)):
            raise UsageError(f"point '{point.name}' was measured as not a number")
    costs = np.array([point.costs() for point in points]).reshape(len(points), 3)
    beaten = [np.flatnonzero(_dominates(costs, own)) for own in costs]
    kept = {k for k, by in enumerate(beaten) if not len(by)}
    return tuple(next((int(k) for k in by if int(k) in kept), None) for by in beaten)


def front(points: Sequence[Point]) -> tuple[int, ...]:
    """Return the indices of the points that none dominates, by bytes, then milliseconds."""
    kept = [k for k, by in enumerate(dominators(points)) if by is None]
    return tuple(sorted(kept, key=lambda k: (*points[k].costs(), k)))


def _dominates(costs: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return ``[points]``: which of them are no worse in all and better in one."""
    return np.asarray((costs <= own).all(axis=1) & (costs < own).any(axis=1))
