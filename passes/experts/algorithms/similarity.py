"""How alike experts behave, and who of them can stand in for the others."""

import itertools

import numpy as np

from whet.ir.array import Array

__all__ = ["correlation", "dissimilarity", "objective", "representatives"]

_TINY = 1e-30


def correlation(logits: Array) -> Array:
    """Return the correlation of what the router says of each two experts, from ``[tokens, experts]``.

    Experts that it says the same of everywhere have none: 0, and 1 with themselves.
    """
    centered = logits.astype(np.float64) - logits.mean(0, dtype=np.float64)
    size = np.sqrt((centered**2).sum(0))
    found = centered.T @ centered / np.maximum(np.outer(size, size), _TINY)
    np.fill_diagonal(found, 1.0)
    return np.asarray(np.clip(found, -1.0, 1.0))


def dissimilarity(logits: Array, outputs: Array) -> Array:
    """Return d_ij = (1 - rho_ij) / 2 + ||f_i - f_j||² / (2 (||f_i||² + ||f_j||²)), between 0 and 2.

    rho is the correlation of the router's logits, f ``[experts, tokens, channels]`` what all experts make of the same
    tokens: experts are alike if they are asked for together and answer alike (STUN, Lee et al. 2024).
    """
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    products = flat @ flat.T
    energy = np.diagonal(products)
    sums = energy[:, None] + energy[None]
    gaps = np.maximum(sums - 2 * products, 0.0) / np.maximum(2 * sums, _TINY)
    np.fill_diagonal(gaps, 0.0)
    rho = correlation(logits).astype(np.float64)
    return np.asarray((1 - rho) / 2 + gaps)


def objective(distances: Array, mass: Array, kept: Array) -> float:
    """Return sum_i m_i min over kept r of d_ir: what is lost if the nearest of those kept stands in for each expert."""
    return float(mass @ distances[:, kept.astype(np.intp)].min(1))


def representatives(distances: Array, mass: Array, count: int) -> Array:
    """Return which ``count`` experts stay, in ascending order: medoids of clusters, weighted by ``mass``.

    From all experts, the one goes whose absence costs least, one after the other; then one that stays is exchanged
    for one that went as long as that lowers the objective (Kaufman and Rousseeuw 1987).
    """
    kept = list(range(len(distances)))
    while len(kept) > count:
        kept.remove(min(kept, key=lambda one: _without(distances, mass, kept, one)))
    best = objective(distances, mass, np.asarray(kept))
    while (step := _exchange(distances, mass, kept)) is not None and step[0] < best * (1 - 1e-12):
        best, kept = step
    return np.asarray(sorted(kept))


def _without(distances: Array, mass: Array, kept: list[int], one: int) -> float:
    return objective(distances, mass, np.asarray([k for k in kept if k != one]))


def _exchange(distances: Array, mass: Array, kept: list[int]) -> tuple[float, list[int]] | None:
    gone = [k for k in range(len(distances)) if k not in kept]
    swaps = [[*(k for k in kept if k != a), b] for a, b in itertools.product(kept, gone)]
    costs = [(objective(distances, mass, np.asarray(swap)), swap) for swap in swaps]
    return min(costs, key=lambda one: one[0], default=None)
