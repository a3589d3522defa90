"""Ends of an activation's grid that change a product the least."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from whet.analysis.ranges import Range
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Doubles
from whet.passes.quantization.algorithms.arrays import Affine, affine, dequantize, quantize
from whet.passes.quantization.algorithms.formats import IntegerFormat

__all__ = ["Fit", "dynamic_error", "fit_range"]

_KEPT = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the observed range that are tried, at both ends and at each alone."""
_ROWS = 1024
"""Rows on which candidates are compared."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A grid and what it does to the product: ||(x - q(x)) W|| / ||x W||."""

    grid: Affine
    error: float


def fit_range(x: Array, matrix: Array, seen: Range, fmt: IntegerFormat) -> Fit:
    """Return the grid inside ``seen`` that minimizes ||(x - q(x)) W||, W being ``[inputs, outputs]``.

    A clipped outlier costs its own product, a wide grid costs all the others: which is worse is found by trying (the
    mean-square criterion of ACIQ, Banner et al. 2019, on the output instead of the activation).
    """
    product = _Product(x, matrix)
    ends = [(a * seen.low, b * seen.high) for a, b in _shares()]
    fits = [Fit(g, product.error(g)) for g in (affine(low, high, fmt) for low, high in ends)]
    return min(fits, key=lambda fit: fit.error)


def dynamic_error(x: Array, matrix: Array, fmt: IntegerFormat) -> float:
    """Return the same error where the grid spans what is there: one tensor is one sample of ``x``."""
    samples: Sequence[Array] = list(x) if x.ndim > 2 else [x]
    errors, norms = 0.0, 0.0
    for sample in samples:
        product = _Product(sample, matrix)
        grid = affine(float(sample.min()), float(sample.max()), fmt)
        norms += product.norm**2
        errors += (product.error(grid) * product.norm) ** 2
    return float(np.sqrt(errors / norms)) if norms else 0.0


def _shares() -> list[tuple[float, float]]:
    """Return shares of the lower and the upper end to keep, all of both first."""
    both = [(k, k) for k in _KEPT]
    return both + [(k, 1.0) for k in _KEPT[1:]] + [(1.0, k) for k in _KEPT[1:]]


class _Product:
    """Some rows of x times W."""

    def __init__(self, x: Array, matrix: Array) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self._x = rows[:: max(1, len(rows) // _ROWS)].astype(np.float32)
        self._w = matrix.astype(np.float32)
        self.norm = _norm(self._x @ self._w)

    def error(self, grid: Affine) -> float:
        """Return ||(x - q(x)) W|| / ||x W||, zero where there is nothing to lose."""
        lost = dequantize(quantize(self._x, grid), grid) - self._x
        return _norm(lost @ self._w) / self.norm if self.norm else 0.0


def _norm(array: Array) -> float:
    exact: Doubles = array.astype(np.float64)
    return float(np.linalg.norm(exact))
