"""Atomic experts: which hidden units of each expert go, and weights without them."""

import numpy as np
from numpy.typing import NDArray

from whet.ir.array import Array

__all__ = ["arrange", "energy_scores", "keep", "second_order", "silence"]

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]


def second_order(products: Array, chosen: Array, experts: int) -> Array:
    """Return ½ sum_t (a_tj g_tj)² by expert and unit, from products ``[rows, units]`` and the expert of each row.

    a is a hidden unit's value for a token, g the slope of the loss by it: g_tj = w_jᵀ dL/dy_t, with w_j what the unit
    writes and y the expert's output. With one matrix E[dL/dy dL/dyᵀ] for all tokens it would be HEAPr's
    ½ E[a²] w_jᵀ G w_j (Li et al. 2025); here each token has its own slope.
    """
    return _sums(products.astype(np.float64) ** 2 / 2, chosen, experts)


def energy_scores(hidden: Array, weights: Array, chosen: Array, norms: Array) -> Array:
    """Return ½ sum_t (p_t a_tj)² ||w_j||²: the same where all directions of the layer's output matter alike.

    ``weights`` are what the router gives each row, ``norms`` the lengths ``[experts, units]`` of what a unit writes.
    """
    rows = (hidden.astype(np.float64) * weights.astype(np.float64).reshape(-1, 1)) ** 2 / 2
    return np.asarray(_sums(rows, chosen, len(norms)) * norms.astype(np.float64) ** 2)


def _sums(rows: Numbers, chosen: Array, experts: int) -> Numbers:
    found = np.zeros((experts, rows.shape[1]))
    np.add.at(found, chosen.astype(np.int64), rows)
    return found


def keep(scores: Array, count: int) -> Array:
    """Return an order of each expert's units: the ``count`` of the highest scores as they stand, then the rest."""
    ranked = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
    parts = (np.sort(ranked[:, :count], 1), np.sort(ranked[:, count:], 1))
    return np.asarray(np.concatenate(parts, 1))


def arrange(array: Array, axis: int, places: Places, order: Array) -> Array:
    """Move units: position p of expert e gets what unit ``order[e, p]`` had.

    ``places[j]`` are the indices along ``axis`` of unit j. An expert computes the same with its units in any order.
    """
    source = np.tile(np.arange(array.shape[axis]), (len(array), 1))
    for expert, units in enumerate(order):
        source[expert, places.reshape(-1)] = places[units].reshape(-1)
    shape = [len(array), *(1,) * (array.ndim - 1)]
    shape[axis] = array.shape[axis]
    return np.take_along_axis(array, source.reshape(shape), axis)


def silence(array: Array, axis: int, places: Places, gone: Array) -> Array:
    """Put zeros in place of the units that ``gone [experts, those that go]`` names."""
    found = array.copy()
    for expert, units in enumerate(gone):
        np.moveaxis(found[expert], axis - 1, 0)[places[units].reshape(-1)] = 0
    return found
