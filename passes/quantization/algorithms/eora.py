"""EoRA (Liu et al., 2024): a low-rank path that repairs what an approximation does to the outputs.

With ΔW = W - Ŵ and the Gram matrix of the inputs H = Q Λ Qᵀ, the truncated singular value decomposition
B A' = ΔW Q Λ^½ and A = A' Λ^-½ Qᵀ minimize ||(ΔW - B A) x||² over all B A of rank r (Eckart & Young), since
tr(Δ H Δᵀ) = ||Δ Q Λ^½||².
"""

import numpy as np
import scipy.linalg

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Doubles,
    Layer,
    LowRank,
    Sum,
)

__all__ = ["rank_for", "repair"]

_NOTHING = 1e-12
"""Eigenvalues below this share of the largest belong to directions in which no input was seen."""


def repair(layer: Layer, approximation: Approximation, rank: int, *, half: bool = False) -> Sum:
    """Return the approximation and the best low-rank path beside it; ``half`` keeps its factors in float16.

    Without a Gram matrix H is the identity. A rank beyond what the error has is lowered to that. Raises ValueError for
    a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank is {rank}, a path needs 1 or more")
    error: Doubles = np.subtract(layer.weights, approximation.values(), dtype=np.float64)
    forth, back = _eigenspace(layer, error.shape[1])
    left, sizes, right = scipy.linalg.svd(error @ forth, full_matrices=False, check_finite=False)
    rank = max(1, min(rank, int(np.count_nonzero(sizes > _NOTHING * sizes[:1].max(initial=0.0)))))
    # Each factor takes the root of a singular value, so that both have entries of about the same size.
    roots = np.sqrt(sizes[:rank])
    kind = np.float16 if half else np.float32
    factors = LowRank(
        _as(left[:, :rank] * roots, kind), _as((roots[:, None] * right[:rank]) @ back, kind)
    )
    return Sum((*_parts(approximation), factors))


def rank_for(layer: Layer, approximation: Approximation, limit: int, *, half: bool = False) -> int:
    """Return the largest rank with which approximation and path take at most ``limit`` bytes; 0 where none fits."""
    outputs, inputs = layer.weights.shape
    left = limit - approximation.nbytes
    each = (outputs + inputs) * (2 if half else 4)
    return max(0, min(left // each, outputs, inputs))


def _eigenspace(layer: Layer, inputs: int) -> tuple[Doubles, Doubles]:
    """Return Q Λ^½ and Λ^-½ Qᵀ, on the directions that inputs have."""
    if layer.gram is None:
        return np.eye(inputs), np.eye(inputs)
    values, vectors = scipy.linalg.eigh(layer.gram, check_finite=False)
    seen = values > _NOTHING * max(float(values[-1]), 0.0)
    roots = np.sqrt(values[seen])
    vectors = vectors[:, seen]
    if not seen.any():
        return np.eye(inputs), np.eye(inputs)
    return vectors * roots, (vectors / roots).T


def _parts(approximation: Approximation) -> tuple[Approximation, ...]:
    return approximation.parts if isinstance(approximation, Sum) else (approximation,)


def _as(matrix: Doubles, kind: type[np.float16] | type[np.float32]) -> Array:
    return np.asarray(np.clip(matrix, -float(np.finfo(kind).max), float(np.finfo(kind).max)), kind)
