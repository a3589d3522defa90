"""M-FAC: one inverse Fisher matrix for all weights of all layers, never formed.

Frantar, Kurtic & Alistarh, M-FAC: Efficient Matrix-Free Approximations of Second-Order Information, 2021. For gradients
G ``[m, d]`` and F = damping I + GᵀG / m, by Woodbury and S = m damping I + G Gᵀ:

    [F⁻¹]_jj = (1 - g_jᵀ S⁻¹ g_j) / damping          (g_j the j-th column of G)

costs O(m² d). Removing a set Q at once moves the others to the least ½ δᵀ F δ with δ_Q = -w_Q, a ridge regression whose
dual has m unknowns:

    δ = G_aᵀ (m damping I + G_a G_aᵀ)⁻¹ G_Q w_Q      (a the weights that stay)

so that weights removed together make up for each other, where the paper adds up what each alone would move.
"""

import numpy as np
import scipy.linalg

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
__all__ = ["inverse_diagonal", "moved", "prices"]

_PORTION = 1 << 16
"""Weights that are looked at together."""


def prices(weights: Array, gradients: Array, alive: Mask, damping: float) -> Doubles:
    """Return ½ w² / [F⁻¹]_jj for each of ``[d]`` weights; infinite where it is gone already.

    ``gradients`` are ``[m, d]``; those of weights that are gone do not count.
    """
    diagonal = inverse_diagonal(gradients, alive, damping)
    found = 0.5 * np.square(weights, dtype=np.float64) / diagonal
    return np.where(alive, found, np.inf)


def inverse_diagonal(gradients: Array, alive: Mask, damping: float) -> Doubles:
    """Return the diagonal of F⁻¹ over the weights that are there; 1 / damping elsewhere."""
    root = np.linalg.cholesky(_system(gradients, alive, damping))
    found: Doubles = np.empty(gradients.shape[1])
    for part in _portions(gradients.shape[1]):
        columns = _living(gradients, alive, part)
        solved = np.asarray(
            scipy.linalg.solve_triangular(root, columns, lower=True, check_finite=False)
        )
        found[part] = (1.0 - np.square(solved).sum(0)) / damping
    return np.maximum(found, np.finfo(float).tiny)


def moved(weights: Array, gradients: Array, alive: Mask, gone: Mask, damping: float) -> Doubles:
    """Return the weights after those of ``gone`` went, out of those ``alive``; the rest has made up for it."""
    stays = alive & ~gone
    pushed: Doubles = np.zeros(len(gradients))
    for part in _portions(len(weights)):
        away: Doubles = np.where(gone[part], weights[part], 0.0)
        pushed += gradients[:, part].astype(np.float64) @ away
    dual = np.linalg.solve(_system(gradients, stays, damping), pushed)
    found: Doubles = np.where(stays, weights, 0.0).astype(np.float64)
    for part in _portions(len(weights)):
        found[part] += dual @ _living(gradients, stays, part)
    return found


def _system(gradients: Array, alive: Mask, damping: float) -> Doubles:
    count = len(gradients)
    total: Doubles = count * damping * np.eye(count)
    for part in _portions(gradients.shape[1]):
        columns = _living(gradients, alive, part)
        total += columns @ columns.T
    return total


def _living(gradients: Array, alive: Mask, part: slice) -> Floats:
    return np.asarray(np.where(alive[part], gradients[:, part], 0), np.float32)


def _portions(count: int) -> list[slice]:
    return [slice(k, min(k + _PORTION, count)) for k in range(0, count, _PORTION)]
