"""SparseGPT: masks for layers too large to remove weight after weight.

Frantar & Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023. Columns are visited
in order; those of a block are ranked by w² / d_k with d_k = [(H_k:,k:)⁻¹]_kk, what it costs to remove column k when the
columns behind it make up for it, and each removal moves those.
"""

import numpy as np
import scipy.linalg

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles
from whet.passes.sparsity.algorithms.pattern import Pattern

__all__ = ["column_mask", "static_prices"]

_BLOCK = 128


def static_prices(weights: Array, inverse: Doubles, pattern: Pattern) -> Doubles:
    """Return ½ w² / [H⁻¹]_kk summed over units: what each costs if it alone goes."""
    squares = np.square(weights, dtype=np.float64)
    return pattern.pooled(0.5 * squares / np.diagonal(inverse))


def column_mask(weights: Array, inverse: Doubles, pattern: Pattern, share: float) -> Array:
    """Return where weights ``[outputs, inputs]`` stay when every block of columns loses ``share`` of its units."""
    factor = np.asarray(scipy.linalg.cholesky(inverse, lower=False, check_finite=False))
    rest: Doubles = weights.astype(np.float64)
    keep = np.ones(weights.shape, np.bool)
    step = _span(weights.shape[1], pattern)
    for start in range(0, weights.shape[1], step):
        part = slice(start, min(start + step, weights.shape[1]))
        corner = factor[part, part]
        prices = pattern.pooled(np.square(rest[:, part] / np.diagonal(corner)))
        keep[:, part] = pattern.keep(prices, round(share * prices.size))
        errors = np.zeros((len(rest), len(corner)))
        for k in range(corner.shape[0]):
            column = start + k
            errors[:, k] = np.where(keep[:, column], 0.0, rest[:, column] / corner[k, k])
            rest[:, column : part.stop] -= np.outer(errors[:, k], corner[k, k:])
        rest[:, part.stop :] -= errors @ factor[part, part.stop :]
    return keep


def _span(inputs: int, pattern: Pattern) -> int:
    """Return about 128 columns that hold whole units and groups."""
    unit = pattern.width if pattern.share is None else pattern.members
    return min(inputs, max(unit, _BLOCK // unit * unit))
