"""Masks inside a bias table: where keys are shut out, and exact factors of such patterns.

A mask with values 0 and L whose rows take g different forms is ``onehot(form of row i) . form(j)``: rank g, and every
product is one value plus zeros, so nothing is rounded. Shifted windows (region i equals region j or not) have one form
per region, padding has one form.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from whet.passes.attention.bias_terms import HIDES
from whet.passes.attention.low_rank import Real
from whet.passes.attention.masks import ABSORBS

__all__ = [
    "Split",
    "blind",
    "forms",
    "hides",
    "is_causal",
    "is_pattern",
    "narrow",
    "pattern_factors",
    "split_mask",
]

_SOFT = -50.0
"""Values up to this one are taken for a mask (Swin writes -100), and kept to the bit."""
_GAP = 20.0
"""No table has nothing between its values and those that far below."""


@dataclasses.dataclass(frozen=True)
class Split:
    """``table = finite + mask``."""

    finite: Real
    mask: Real | None
    """Zeros, and what stands where keys are shut out; None where nothing is."""


def narrow(table: Real) -> Real:
    """Return the table without repetitions over its first two dimensions."""
    for axis in (0, 1):
        first = table.take([0], axis)
        if table.shape[axis] > 1 and np.array_equal(table, np.broadcast_to(first, table.shape)):
            table = first
    return table


def is_pattern(table: Real) -> bool:
    """Tell whether the table is a mask: it takes the value 0 and one of at most -50, nothing else."""
    low = float(table.min(initial=0.0))
    return low <= _SOFT and bool(((table == 0) | (table == low)).all())


def split_mask(table: Real) -> Split:
    """Take masked places out of ``[..., n, m]``.

    Where a table of moderate values had a common level added (-100), subtracting it gives back the values. Where keys
    are shut out for good, what lies below does not count and becomes the mean of the rest of its row.
    """
    hard = table <= HIDES
    if hard.any():
        return Split(_fill(table, hard), np.where(hard, table, 0.0).astype(np.float32))
    soft = table <= _SOFT
    if not soft.any() or soft.all() or table[~soft].min() - table[soft].max() < _GAP:
        return Split(table, None)
    level = float(np.round(np.median(table[soft]) / 100.0) * 100.0)
    finite = np.where(soft, table.astype(np.float64) - level, table)
    if level >= 0 or np.abs(finite).max() > -_SOFT:
        return Split(table, None)
    return Split(_once(finite, soft, -level), np.where(soft, level, 0.0).astype(np.float32))


def _once(finite: Real, masked: npt.NDArray[np.bool_], level: float) -> Real:
    """Return one table for all samples if they differ by no more than the rounding of values near ``level``."""
    seen = np.argmin(masked, axis=0, keepdims=True)
    table = np.take_along_axis(finite, seen, axis=0)
    rounding = 2 * float(np.spacing(np.float32(level)))
    return table if np.abs(finite - table).max() <= rounding else finite


def _fill(table: Real, hidden: npt.NDArray[np.bool_]) -> Real:
    count = (~hidden).sum(axis=-1, keepdims=True)
    sums = np.where(hidden, 0.0, table.astype(np.float64)).sum(axis=-1, keepdims=True)
    return np.asarray(np.where(hidden, sums / np.maximum(count, 1), table))


def is_causal(mask: Real) -> bool:
    """Tell whether query i sees keys 0 to i and no others, in every matrix."""
    n, m = mask.shape[-2:]
    return bool(
        ((mask > HIDES) == np.tri(n, m, dtype=np.bool_)).all() and (mask[mask > HIDES] == 0).all()
    )


def hides(mask: Real) -> bool:
    """Tell whether keys are shut out for good."""
    return bool((mask <= HIDES).any())


def blind(mask: Real, causal: bool = False) -> bool:
    """Tell whether some query sees no key at all: what attention returns there depends on how that is written."""
    seen = mask > HIDES
    if causal:
        seen = seen & np.tri(*mask.shape[-2:], dtype=np.bool_)
    return bool((~seen).all(axis=-1).any())


def forms(mask: Real) -> int:
    """Return how many different rows the matrices have, at most."""
    matrices = mask.reshape(-1, *mask.shape[-2:])
    return max(len(np.unique(matrix, axis=0)) for matrix in matrices)


def pattern_factors(mask: Real) -> tuple[Real, Real]:
    """Return ``left [..., n, g]`` and ``right [..., m, g]`` with ``left right'`` the mask, exactly.

    Minus infinity becomes -1e30: zero times infinity is not a number. Matrices with fewer forms are padded with zeros.
    """
    matrices = np.maximum(mask, ABSORBS).reshape(-1, *mask.shape[-2:])
    n, m = mask.shape[-2:]
    rank = forms(mask)
    left = np.zeros((len(matrices), n, rank), np.float32)
    right = np.zeros((len(matrices), m, rank), np.float32)
    for k, matrix in enumerate(matrices):
        rows, form = np.unique(matrix, axis=0, return_inverse=True)
        left[k, np.arange(n), form.reshape(-1)] = 1.0
        right[k, :, : len(rows)] = rows.T
    outer = mask.shape[:-2]
    return left.reshape(*outer, n, rank), right.reshape(*outer, m, rank)
