"""Several experts become one: who joins whom, in which order of units, with which weight."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from whet.ir.array import Array

__all__ = ["align", "average", "groups"]


def groups(similarity: Array, counts: Array, count: int) -> Array:
    """Return which of ``count`` groups each expert belongs to.

    The experts that are chosen most often are dominant, each of a group of its own, numbered in their own order; the
    others join the dominant one that is most similar to them (M-SMoE, Li et al. 2023).
    """
    ranked = np.lexsort((np.arange(len(counts)), -np.asarray(counts, np.float64)))
    dominant = np.sort(ranked[:count])
    found = similarity[:, dominant].argmax(1)
    found[dominant] = np.arange(count)
    return np.asarray(found)


def align(units: Array, target: Array) -> Array:
    """Return the order of ``units`` whose rows fit ``target`` best, both ``[units, numbers]``.

    It maximizes sum_p <units[order_p], target_p> over all permutations, which is the least sum of squared distances: a
    linear assignment (Ainsworth et al. 2023; Li et al. 2023).
    """
    gains = target.astype(np.float64) @ units.astype(np.float64).T
    return np.asarray(linear_sum_assignment(gains, maximize=True)[1])


def average(arrays: Array, weights: Array) -> Array:
    """Return sum_e n_e W_e / sum_e n_e over the leading axis; the plain mean where nothing was ever chosen."""
    given = weights.astype(np.float64)
    total = float(given.sum())
    shares = given / total if total > 0 else np.full(len(given), 1 / len(given))
    return np.asarray(np.tensordot(shares, arrays.astype(np.float64), 1))
