"""Better masks by exchange: a weight comes back, a cheaper one goes, as long as the loss falls.

Iterative Combinatorial Brain Surgeon (Yu et al. 2022; Serra et al. 2023): the mask's quadratic problem, to choose the
weights S that stay so that the least ½ (w - w⁰)ᵀ H (w - w⁰) over w that are zero elsewhere is smallest, by block
coordinate descent with blocks of two. All prices come from one array: the sweep operator, applied to the places of S
in

    [ H     H w⁰     ]
    [ w⁰ᵀH  w⁰ᵀ H w⁰ ]

leaves [H_SS]⁻¹, the best w_S beside it, what the gradient and the curvature are at the other places (r and s), and
twice the loss in the corner. Bringing j back lowers that by r_j² / s_j, removing i raises it by w_i² / [H_SS⁻¹]_ii.
"""

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool]]
__all__ = ["exchange", "loss_of_mask"]

_GAIN = 1e-6
"""Share of the loss that an exchange must gain."""


def loss_of_mask(weights: Array, hessian: Doubles, keep: Array) -> float:
    """Return the least ½ (w - w⁰)ᵀ H (w - w⁰) for one row."""
    kept: Mask = np.asarray(keep, np.bool)
    return float(_swept(weights.astype(np.float64), hessian, kept)[-1, -1]) / 2


def exchange(
    weights: Array, hessian: Doubles, keep: Array, *, members: int | None = None, most: int = 64
) -> Array:
    """Return masks ``[rows, inputs]`` with as many weights in each row, none of a larger loss.

    ``hessian`` is ``[inputs, inputs]``, or one for each row. With ``members`` a weight only takes the place of one in
    the same group of that many. At most ``most`` exchanges in a row.
    """
    found: Mask = np.array(keep, np.bool)
    for row in range(len(weights)):
        own = hessian if hessian.ndim == 2 else hessian[row]
        _exchange_row(weights[row].astype(np.float64), own, found[row], members, most)
    return found


def _exchange_row(
    weights: Doubles, hessian: Doubles, keep: Mask, members: int | None, most: int
) -> None:
    if keep.all() or not keep.any():
        return
    table = _swept(weights, hessian, keep)
    for _ in range(most):
        before = float(table[-1, -1])
        added = _best_addition(table, keep)
        trial = table.copy()
        _sweep(trial, added)
        keep[added] = True
        removed = _best_removal(trial, keep, added, members)
        _sweep(trial, removed)
        if trial[-1, -1] >= before - _GAIN * abs(before):
            keep[added] = False
            return
        keep[removed] = False
        table = trial


def _best_addition(table: Doubles, keep: Array) -> int:
    curvature = np.diagonal(table)[:-1]
    gain = np.square(table[:-1, -1]) / np.where(curvature > 0, curvature, np.inf)
    return int(np.argmax(np.where(keep, -np.inf, gain)))


def _best_removal(table: Doubles, keep: Mask, added: int, members: int | None) -> int:
    """Return the cheapest weight that stays; the one that just came may go again."""
    curvature = np.diagonal(table)[:-1]
    cost = np.square(table[:-1, -1]) / np.where(curvature < 0, -curvature, np.inf)
    allowed = keep.copy()
    if members is not None:
        allowed &= np.arange(len(keep)) // members == added // members
    return int(np.argmin(np.where(allowed & (curvature < 0), cost, np.inf)))


def _swept(weights: Doubles, hessian: Doubles, keep: Mask) -> Doubles:
    """Return the table for the mask, all places of S swept at once; [H_SS]⁻¹ has a minus in front of it."""
    size = len(weights)
    table = np.empty((size + 1, size + 1))
    table[:size, :size] = hessian
    table[:size, size] = table[size, :size] = hessian @ weights
    table[size, size] = weights @ hessian @ weights
    inside, outside = np.flatnonzero(keep), np.append(np.flatnonzero(~keep), size)
    inverse = np.linalg.inv(hessian[np.ix_(inside, inside)])
    across = inverse @ table[np.ix_(inside, outside)]
    rest = table[np.ix_(outside, outside)] - table[np.ix_(outside, inside)] @ across
    table[np.ix_(inside, inside)] = -inverse
    table[np.ix_(inside, outside)] = across
    table[np.ix_(outside, inside)] = across.T
    table[np.ix_(outside, outside)] = rest
    return table


def _sweep(table: Doubles, place: int) -> None:
    """Exchange one place between the two sides; the same step leads there and back."""
    pivot = float(table[place, place])
    column = table[:, place].copy()
    table -= np.outer(column, column) / pivot
    table[:, place] = table[place, :] = column / abs(pivot)
    table[place, place] = -1.0 / pivot
