"""What removing each unit of a weight costs, by the methods that the pass offers."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from whet.errors import Mismatch
from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles
from whet.passes.sparsity.algorithms.columns import column_mask, static_prices
from whet.passes.sparsity.algorithms.pattern import Pattern
from whet.passes.sparsity.algorithms.recovery import damped
from whet.passes.sparsity.algorithms.saliency import magnitude, wanda
from whet.passes.sparsity.algorithms.surgeon import eliminate
from whet.passes.sparsity.targets import Target

__all__ = ["Priced", "by_fisher", "by_gram", "by_magnitude", "by_wanda"]

_EXACT = 640
"""Inputs up to which weights are removed one after the other."""
_DAMPING = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Priced:
    """The units of one weight with what they cost, and how the mask follows from a count."""

    target: Target
    prices: Doubles
    """Marginal costs, ``[outputs / height, inputs / width]``; infinite where a unit stays in any case."""
    mask: Callable[[int], Array]
    """Number of units to remove -> where weights stay."""


def by_magnitude(target: Target, pattern: Pattern) -> Priced:
    """Price by w²."""
    return _plain(target, pattern, pattern.pooled(magnitude(target.matrix)))


def by_wanda(target: Target, pattern: Pattern) -> Priced:
    """Price by (|w| ||x||)²."""
    parts = [wanda(target.matrix[rows], gram) for rows, gram in _parts(target)]
    return _plain(target, pattern, pattern.pooled(np.concatenate(parts)))


def by_gram(target: Target, pattern: Pattern) -> Priced:
    """Price by what the error of the outputs grows, all other weights making up for it, relative to the outputs."""
    energy = sum(
        float(np.vdot(w @ gram, w))
        for rows, gram in _parts(target)
        for w in [target.matrix[rows].astype(np.float64)]
    )
    inverses = [_inverse(damped(gram, _DAMPING)) for _, gram in _parts(target)]
    scale = 1.0 / max(energy, np.finfo(float).tiny)
    if target.matrix.shape[1] > _EXACT:
        return _by_columns(target, pattern, inverses, scale)
    parts = [
        _traced(target.matrix[rows], inverse, pattern)
        for (rows, _), inverse in zip(_parts(target), inverses, strict=True)
    ]
    return _plain(target, pattern, scale * np.concatenate(parts))


def by_fisher(target: Target, pattern: Pattern, hessian: Doubles) -> Priced:
    """Price by what the loss grows: ``hessian`` has the blocks of each row, ``[blocks, size, size]``."""
    outputs, inputs = target.matrix.shape
    size = hessian.shape[-1]
    count = inputs // size
    weights = target.matrix.reshape(outputs, count, size)
    inverses = _inverse(hessian).reshape(outputs, count, size, size)
    prices = [_traced(weights[:, k], inverses[:, k], pattern) for k in range(count)]
    return _plain(target, pattern, np.concatenate(prices, 1))


def _inverse(matrices: Doubles) -> Doubles:
    return np.asarray(np.linalg.inv(matrices), np.float64)


def _plain(target: Target, pattern: Pattern, prices: Doubles) -> Priced:
    return Priced(target, prices, lambda count: pattern.keep(prices, count))


def _by_columns(
    target: Target, pattern: Pattern, inverses: Sequence[Doubles], scale: float
) -> Priced:
    parts = list(zip(target.groups, inverses, strict=True))
    prices = np.concatenate(
        [static_prices(target.matrix[rows], inverse, pattern) for rows, inverse in parts]
    )

    def mask(count: int) -> Array:
        share = count / prices.size
        return np.concatenate(
            [column_mask(target.matrix[rows], inverse, pattern, share) for rows, inverse in parts]
        )

    return Priced(target, scale * prices, mask)


def _parts(target: Target) -> list[tuple[slice, Doubles]]:
    if not target.grams:
        raise Mismatch("needs calibration data")
    return list(zip(target.groups, target.grams, strict=True))


def _traced(weights: Array, inverse: Doubles, pattern: Pattern) -> Doubles:
    """Return the marginal costs of units in the order in which each row loses them, never falling."""
    outputs, inputs = weights.shape
    found = np.full((outputs // pattern.height, inputs // pattern.width), np.inf)
    wide: Doubles = weights.astype(np.float64)
    for row in range(len(found)):
        part = slice(row * pattern.height, (row + 1) * pattern.height)
        own = inverse if inverse.ndim == 2 else inverse[part]
        gone = eliminate(wide[part], own, pattern)
        found[row, gone.order] = np.maximum.accumulate(gone.costs)
    return found
