"""Choose the range of each value by what rounding to it does to the outputs of the products that read it.

With x a value, Q(x) what its grid makes of it and W the weights of a product, the error is
||W (Q(x) - x)||², added up over all products that read x, on data that no range was fitted to. A value that no
product reads is judged by ||Q(x) - x||².
"""

from collections.abc import Sequence

import numpy as np

from whet.analysis.ranges import Range
from whet.ir.values import Array
from whet.passes.quantization.algorithms.arrays import affine, dequantize, quantize
from whet.passes.quantization.algorithms.formats import IntegerFormat
from whet.passes.quantization.input_moments import InputMoments
from whet.passes.quantization.weight_codes import Weights

__all__ = ["Reader", "choose_range", "output_energy"]

Reader = tuple[Weights, InputMoments]
"""The weights of a product, and how it takes vectors out of what it reads."""
_CLEARLY = 0.98
"""A narrower range must leave less than this share of the error."""


def choose_range(
    candidates: Sequence[Range], values: Array, readers: Sequence[Reader], fmt: IntegerFormat
) -> Range:
    """Return the candidate that costs the outputs least; earlier ones win ties, so begin with the widest."""
    best, least = candidates[0], np.inf
    for candidate in dict.fromkeys(candidates):
        grid = affine(candidate.low, candidate.high, fmt)
        lost = np.subtract(dequantize(quantize(values, grid), grid), values, dtype=np.float32)
        error = sum(output_energy(lost, reader) for reader in readers) if readers else _energy(lost)
        if error < least * _CLEARLY:
            best, least = candidate, error
    return best


def output_energy(values: Array, reader: Reader) -> float:
    """Return the mean of ||W x||² over the vectors x of one product's input."""
    weights, vectors = reader
    parts = np.split(weights.matrix(), weights.groups)
    total = 0.0
    for matrix, rows in zip(parts, vectors.vectors(values), strict=True):
        total += _energy(np.matmul(rows, matrix.T)) / max(len(rows), 1)
    return total


def _energy(values: Array) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))
