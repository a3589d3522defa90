"""The Gram matrix of normalized vectors: what a normalization hands on, before its scale."""

import dataclasses

import numpy as np

from whet.analysis.statistics import Accumulator, GramMatrix, Statistic
from whet.analysis.statistics.grams import GramSum
from whet.ir.values import Array

__all__ = ["UnitGram"]


@dataclasses.dataclass(frozen=True)
class UnitGram(Statistic[GramMatrix]):
    """The mean of x xᵀ / (||x||² / n) over the vectors along the last axis, of x minus its mean where ``centered``."""

    centered: bool = False

    def start(self) -> Accumulator[GramMatrix]:
        """Return a sum of nothing."""
        return _Sum(self.centered)


class _Sum(Accumulator[GramMatrix]):
    def __init__(self, centered: bool) -> None:
        self._centered = centered
        self._sum = GramSum(exact=False)

    def add(self, array: Array) -> None:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float32)
        if self._centered:
            rows = rows - rows.mean(-1, keepdims=True)
        power = np.sqrt(np.mean(rows**2, -1, keepdims=True))
        self._sum.add(np.asarray(rows / np.maximum(power, np.float32(1e-20))))

    def result(self) -> GramMatrix:
        return self._sum.mean()
