"""Factors of low rank in place of a weight, fitted to the outputs of the inputs seen.

With H the Gram matrix of the inputs, the best W' of rank r for E||(W - W') x||² is the truncated singular value
decomposition of W H^½, times H^-½ (Eckart & Young; Yuan et al., "ASVD", 2023; Wang et al., "SVD-LLM", 2024), since
tr(Δ H Δᵀ) = ||Δ H^½||². H comes of finitely many vectors, so that λ tr(H) / n is added to its diagonal; of several λ
the one is taken that loses least on other vectors.

A kernel of k x k taps can also be factored along its axes into r vertical and r horizontal kernels (Jaderberg et al.,
2014; Tai et al., 2016): W[o, i, a, b] ≈ Σ_r V[i, a, r] U[r, o, b].
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Doubles,
    Floats,
    Layer,
    LowRank,
)

__all__ = ["Factored", "Family", "Separable", "factor", "low_rank", "separable"]

Family = Callable[[int], Approximation]
"""From a rank to factors of that rank."""
_DAMPING = (1e-4, 1e-2, 0.3, math.inf)
"""Shares of the mean diagonal that are added to a Gram matrix; the last one leaves the weights alone to decide."""


@dataclasses.dataclass(frozen=True)
class Separable(Approximation):
    """Vertical kernels, then horizontal ones."""

    vertical: Floats
    """``[rank, inputs, height]``."""
    horizontal: Floats
    """``[outputs, rank, width]``."""

    def values(self) -> Floats:
        """Return ``[outputs, inputs * height * width]``."""
        whole = np.einsum("ria,orb->oiab", self.vertical, self.horizontal, optimize=True)
        return np.asarray(whole.reshape(len(self.horizontal), -1), np.float32)

    @property
    def nbytes(self) -> int:
        """Return both factors."""
        return self.vertical.nbytes + self.horizontal.nbytes


@dataclasses.dataclass(frozen=True)
class Factored:
    """Factors for every group of a layer, all of one rank."""

    rank: int
    parts: tuple[Approximation, ...]
    error: float
    """||(W' - W) x||² / ||W x||² on the data to judge by, of the group where it is largest."""

    @property
    def nbytes(self) -> int:
        """Return what all factors take."""
        return sum(part.nbytes for part in self.parts)


def factor(
    layers: Sequence[Layer],
    family: Callable[[Layer, float], Family],
    most: int,
    *,
    rank: int = 0,
    energy: float = 1.0,
) -> Factored:
    """Return factors of ``rank``, or of the smallest rank that keeps ``energy`` of the outputs' energy.

    Where no rank up to ``most`` keeps as much, those of rank ``most`` are returned, with their error. Raises ValueError
    for ``most`` or ``rank`` out of range.
    """
    if not 1 <= max(rank, 1) <= most:
        raise ValueError(f"the rank is {rank}, it must be 1 to {most}")
    found: list[Factored] = []
    for damping in _DAMPING if layers[0].gram is not None else (math.inf,):
        families = [family(layer, damping) for layer in layers]

        def at(rank: int, families: Sequence[Family] = families) -> Factored:
            parts = tuple(make(rank) for make in families)
            errors = [layer.error(part) for layer, part in zip(layers, parts, strict=True)]
            return Factored(rank, parts, max(errors))

        found.append(at(rank) if rank else _smallest(at, most, 1.0 - energy))
    return min(found, key=lambda one: (one.error > 1.0 - energy, one.rank, one.error))


def _smallest(at: Callable[[int], Factored], most: int, lost: float) -> Factored:
    """Bisect for the smallest rank that loses at most ``lost``."""
    best, low, high = at(most), 1, most
    if best.error > lost:
        return best
    while low < high:
        middle = (low + high) // 2
        found = at(middle)
        if found.error <= lost:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def low_rank(layer: Layer, damping: float) -> Family:
    """Return the best products L R of every rank."""
    weights: Doubles = layer.weights.astype(np.float64)
    forth, back = _roots(layer.gram, damping, weights.shape[1])
    left, sizes, right = scipy.linalg.svd(weights @ forth, full_matrices=False, check_finite=False)

    def make(rank: int) -> LowRank:
        # Each factor takes the root of a singular value, so that both have entries of about the same size.
        roots = np.sqrt(sizes[:rank])
        return LowRank(
            np.asarray(left[:, :rank] * roots, np.float32),
            np.asarray((roots[:, None] * right[:rank]) @ back, np.float32),
        )

    return make


def separable(kernel: tuple[int, int]) -> Callable[[Layer, float], Family]:
    """Return the family of factors along the axes of a kernel.

    The vertical kernels are the leading directions of W as a matrix [(i, a), (o, b)], weighted with the Gram matrix of
    the columns of patches; given these, the horizontal ones are the least squares solution for all patches.
    """
    return lambda layer, damping: _separable(layer, damping, kernel)


def _separable(layer: Layer, damping: float, kernel: tuple[int, int]) -> Family:
    height, width = kernel
    outputs, inputs = layer.weights.shape
    channels = inputs // (height * width)
    weights: Doubles = layer.weights.astype(np.float64)
    whole = weights.reshape(outputs, channels * height, width).transpose(1, 0, 2)
    gram = np.eye(inputs) if layer.gram is None else _damped(layer.gram, damping)
    columns = np.einsum("xbyb->xy", gram.reshape((channels * height, width) * 2)) / width
    forth, back = _roots(columns, 0.0, channels * height)
    left, sizes, _ = scipy.linalg.svd(
        forth.T @ whole.reshape(channels * height, -1), full_matrices=False, check_finite=False
    )
    basis = back.T @ (left * np.sqrt(sizes))

    def make(rank: int) -> Separable:
        vertical = basis[:, :rank]
        taken = np.einsum("xr,bc->rbxc", vertical, np.eye(width)).reshape(rank * width, inputs)
        seen = taken @ gram
        normal = seen @ taken.T
        normal[np.diag_indices_from(normal)] += 1e-12 * max(float(np.trace(normal)), 1e-300)
        fitted = scipy.linalg.solve(normal, seen @ weights.T, assume_a="pos", check_finite=False)
        horizontal = fitted.T.reshape(outputs, rank, width)
        kernels = vertical.T.reshape(rank, channels, height)
        return Separable(np.asarray(kernels, np.float32), np.asarray(horizontal, np.float32))

    return make


def _damped(gram: Doubles, damping: float) -> Doubles:
    size = len(gram)
    if math.isinf(damping):
        return np.eye(size)
    added = max(damping * float(np.trace(gram)) / size, 1e-12)
    return np.asarray(gram + added * np.eye(size))


def _roots(gram: Doubles | None, damping: float, inputs: int) -> tuple[Doubles, Doubles]:
    """Return Q Λ^½ and Λ^-½ Qᵀ of the damped Gram matrix Q Λ Qᵀ."""
    if gram is None or math.isinf(damping):
        return np.eye(inputs), np.eye(inputs)
    values, vectors = scipy.linalg.eigh(_damped(gram, damping), check_finite=False)
    roots = np.sqrt(np.maximum(values, 1e-12 * max(float(values[-1]), 1e-300)))
    return np.asarray(vectors * roots), np.asarray((vectors / roots).T)
