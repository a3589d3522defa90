"""Gram matrices: the mean of x xᵀ, which is all that a linear map's output error depends on."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from whet.analysis.statistics.base import Accumulator, Doubles, Statistic, check_finite, thin
from whet.errors import CalibrationError
from whet.ir.values import Array

__all__ = ["Gram", "GramMatrix", "GramSum"]

_EXACT, _FAST = np.float64, np.float32
_BLOCK_BYTES = 1 << 24
_FAST_ROWS = 4096
"""Rows that are summed up in float32 before the sum goes on in float64."""


@dataclasses.dataclass(frozen=True)
class GramMatrix:
    """Mean of x xᵀ over ``rows`` vectors x, in float64, ``[size, size]``."""

    matrix: Doubles
    rows: int


@dataclasses.dataclass(frozen=True)
class Gram(Statistic[GramMatrix]):
    """The Gram matrix of the vectors along an axis; all other axes count samples."""

    axis: int = -1
    exact: bool = True
    """Multiply in float64; otherwise in float32, blocks of 4,096 rows added up in float64, which takes half the time."""
    per_sample: int = 0
    """Use about so many vectors, evenly spaced, of each sample (index of the first axis); 0 uses all."""

    def start(self) -> Accumulator[GramMatrix]:
        """Return a sum of outer products."""
        return _Along(self)


class GramSum:
    """A sum of outer products, block by block of rows."""

    def __init__(self, *, exact: bool) -> None:
        """Start with nothing."""
        self._dtype = _EXACT if exact else _FAST
        self._total: Doubles | None = None
        self._rows = 0

    def add(self, rows: Array) -> None:
        """Add ``[rows, size]``; raises NotFinite."""
        for block in self._blocks(rows):
            product = block.T @ block
            check_finite(np.diagonal(product))
            if self._total is None:
                self._total = product.astype(np.float64)
            elif self._total.shape != product.shape:
                raise CalibrationError(
                    f"calibration data: vectors of {len(product)} numbers, {len(self._total)} before"
                )
            else:
                self._total += product
        self._rows += len(rows)

    def _blocks(self, rows: Array) -> Iterator[Array]:
        size = max(1, rows.shape[1] * np.dtype(self._dtype).itemsize)
        step = max(256, _BLOCK_BYTES // size)
        step = min(step, _FAST_ROWS) if self._dtype is _FAST else step
        for start in range(0, len(rows), step):
            yield np.ascontiguousarray(rows[start : start + step], self._dtype)

    def mean(self) -> GramMatrix:
        """Return the mean over all rows."""
        if self._total is None:
            raise CalibrationError("calibration data: no batch was seen")
        return GramMatrix(self._total / max(self._rows, 1), self._rows)


class _Along(Accumulator[GramMatrix]):
    notices: ClassVar[bool] = True

    def __init__(self, options: Gram) -> None:
        self._options = options
        self._sum = GramSum(exact=options.exact)

    def add(self, array: Array) -> None:
        vectors = np.moveaxis(array, self._options.axis, -1)
        size = vectors.shape[-1]
        if self._options.per_sample and vectors.ndim > 2:
            samples = vectors.reshape(len(vectors), -1, size)
            vectors = samples[:, :: thin(samples.shape[1], self._options.per_sample)]
        self._sum.add(vectors.reshape(-1, size))

    def result(self) -> GramMatrix:
        return self._sum.mean()
