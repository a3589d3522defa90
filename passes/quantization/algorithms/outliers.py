"""Dense and sparse: the few weights that rounding would hurt most stay in full precision.

SpQR (Dettmers et al., 2023) ranks weights by what rounding them costs, (w - ŵ)² / [H⁻¹]_ii; SqueezeLLM (Kim et al.,
2023) also takes the largest magnitudes, which widen the grid of all others. The rest is approximated without them.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Doubles,
    Layer,
    Outliers,
    Sum,
)
from whet.passes.quantization.algorithms.inverse import inverse_diagonal

__all__ = ["keep_outliers", "saliency"]

Ranking = Literal["saliency", "magnitude"]


def keep_outliers(
    layer: Layer,
    share: float,
    inner: Callable[[Layer], Approximation],
    ranking: Ranking = "saliency",
) -> Sum:
    """Return ``inner`` of the layer without its outliers, plus what is then missing at their places, exactly.

    ``share`` of the weights, the highest ranked of the whole layer, are outliers. ``inner`` sees zeros there, so that
    its grid does not span them. Raises ValueError for a share outside 0 to 0.5.
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"the share of outliers is {share}, between 0 and 0.5 is possible")
    kept = _highest(saliency(layer, ranking), round(share * layer.weights.size))
    rest = dataclasses.replace(layer, weights=np.where(kept, 0, layer.weights).astype(np.float32))
    dense = inner(rest)
    return Sum((dense, _sparse(kept, layer.weights - dense.values())))


def saliency(layer: Layer, ranking: Ranking = "saliency") -> Doubles:
    """Return what zeroing each weight alone would cost, w² / [H⁻¹]_ii, or its square without a Gram matrix."""
    squares: Doubles = np.square(layer.weights, dtype=np.float64)
    if ranking == "magnitude" or layer.gram is None:
        return squares
    return squares / inverse_diagonal(layer.gram)


def _highest(ranks: Doubles, count: int) -> Array:
    """Return where the ``count`` largest are; of equals the first."""
    kept = np.zeros(ranks.size, np.bool)
    kept[np.argsort(-ranks, axis=None, kind="stable")[:count]] = True
    return kept.reshape(ranks.shape)


def _sparse(kept: Array, numbers: Array) -> Outliers:
    outputs, inputs = kept.shape
    rows, columns = np.nonzero(kept)
    return Outliers(
        (outputs, inputs),
        np.bincount(rows, minlength=outputs).astype(_index_type(inputs)),
        columns.astype(_index_type(inputs)),
        np.asarray(numbers[rows, columns], np.float32),
    )


def _index_type(limit: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if limit < 1 << 16 else np.uint32
