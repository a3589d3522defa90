"""EoRA (Liu et al., 2024): a low-rank path that repairs what an approximation does to the outputs.

With ΔW = W - Ŵ and the Gram matrix of the inputs H = Q Λ Qᵀ, the truncated singular value decomposition
B A' = ΔW Q Λ^½ and A = A' Λ^-½ Qᵀ minimize ||(ΔW - B A) x||² over all B A of rank r (Eckart & Young), since
tr(Δ H Δᵀ) = ||Δ Q Λ^½||².
"""

from collections.abc import Callable

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

__all__ = ["beside", "paying_rank", "rank_for", "repair", "repairing_path"]

_NOTHING = 1e-12
"""Eigenvalues below this share of the largest belong to directions in which no input was seen."""


def repair(layer: Layer, approximation: Approximation, rank: int, *, half: bool = False) -> Sum:
    """Return the approximation and the best low-rank path beside it (see :func:`repairing_path`)."""
    path = repairing_path(layer, approximation.values(), rank, half=half)
    return Sum((*_parts(approximation), path))


def beside(approximation: Approximation, path: LowRank | None) -> Approximation:
    """Return the approximation with a path beside it, or as it is."""
    return approximation if path is None else Sum((*_parts(approximation), path))


def repairing_path(layer: Layer, values: Array, rank: int, *, half: bool = False) -> LowRank:
    """Return the best path beside a matrix that stands for the weights; ``half`` keeps its factors in float16.

    Without a Gram matrix H is the identity. A rank beyond what the error has is lowered to that. Rows of the right
    factor and columns of the left one go from the most to the least important. Raises ValueError for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank is {rank}, a path needs 1 or more")
    error: Doubles = np.subtract(layer.weights, values, dtype=np.float64)
    forth, back = _eigenspace(layer, error.shape[1])
    left, sizes, right = scipy.linalg.svd(error @ forth, full_matrices=False, check_finite=False)
    rank = max(1, min(rank, int(np.count_nonzero(sizes > _NOTHING * sizes[:1].max(initial=0.0)))))
    # Each factor takes the root of a singular value, so that both have entries of about the same size.
    roots = np.sqrt(sizes[:rank])
    kind = np.float16 if half else np.float32
    return LowRank(
        _as(left[:, :rank] * roots, kind), _as((roots[:, None] * right[:rank]) @ back, kind)
    )


def paying_rank(
    path: LowRank, error: Callable[[LowRank | None], float], weights: int | None
) -> LowRank | None:
    """Return the first ranks of a path, powers of two or all, that pay best; None where none pays.

    ``error`` judges paths, and what there is without one. Of ``weights`` weights a further bit each would quarter the
    error: a path pays where it gains more than its bytes would as such bits; with None, where it gains at all.
    """
    whole = len(path.right)
    ranks = sorted({whole, *(1 << k for k in range(whole.bit_length()))})
    best, plain = None, error(None)
    least = plain
    for rank in ranks:
        cut = LowRank(path.left[:, :rank], path.right[:rank])
        found = error(cut)
        bits = 8 * cut.nbytes / weights if weights else 0.0
        if found < plain and found * 4.0**bits < least:
            best, least = cut, found * 4.0**bits
    return best


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
