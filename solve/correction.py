"""Correct predicted losses by measured ones, and say how sure a measured drop is."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy.optimize import isotonic_regression, lsq_linear
from scipy.stats import spearmanr

from whet.errors import UsageError
from whet.solve.allocation import Decision, Doubles, Plan, Problem

__all__ = [
    "MonotoneMap",
    "correct",
    "corrected",
    "fit_monotone",
    "spearman",
    "without_interactions",
]


@dataclasses.dataclass(frozen=True)
class MonotoneMap:
    """A map from predicted to measured loss: through (0, 0), straight between knots, never decreasing.

    Beyond the last knot it goes on in proportion: measured / predicted of the last knot stays.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    def __call__(self, loss: float) -> float:
        """Return what is to be expected of a predicted loss."""
        if loss > self.predicted[-1] > 0:
            return self.measured[-1] * loss / self.predicted[-1]
        return float(np.interp(loss, self.predicted, self.measured))

    def inverse(self, loss: float) -> float:
        """Return the largest predicted loss that maps to no more than this one: a limit for the solver."""
        if loss >= self.measured[-1]:
            last = self.predicted[-1]
            return last * loss / self.measured[-1] if self.measured[-1] > 0 else np.inf
        k = int(np.searchsorted(self.measured, loss, side="right"))
        if k == 0:
            return 0.0
        below, above = self.measured[k - 1], self.measured[k]
        share = (loss - below) / (above - below)
        return self.predicted[k - 1] + share * (self.predicted[k] - self.predicted[k - 1])


def fit_monotone(predicted: Sequence[float], measured: Sequence[float]) -> MonotoneMap:
    """Return the nearest non-decreasing map in least squares: pool adjacent violators (Barlow et al., 1972).

    Measured losses below zero count as zero. Raises UsageError for no pairs or numbers that are not finite.
    """
    x, y = _pairs(predicted, measured)
    order = np.lexsort((y, x))
    points, place = np.unique(x[order], return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=np.maximum(y[order], 0.0)) / weights
    fitted = np.asarray(isotonic_regression(means, weights=weights).x, np.float64)
    above = points > 0
    return MonotoneMap(
        (0.0, *(float(v) for v in points[above])), (0.0, *(float(v) for v in fitted[above]))
    )


def correct(
    problem: Problem, plans: Sequence[Plan], measured: Sequence[float], ridge: float = 0.1
) -> Doubles:
    """Return a factor per decision, 0 or more, for the losses of its options.

    Least squares with ridge toward the present prices, all relative to the size of the measured losses m:

        minimize sum_p (L_p(f) - m_p)² / mean(m²) + ridge · plans · mean_d (f_d - 1)²      over f >= 0

    with L_p(f) the loss of a plan where prices are multiplied by f_d and interactions by sqrt(f_d f_e), to first order
    around f = 1. A decision that the plans tell nothing about keeps its factor of 1. Raises UsageError for no pairs,
    numbers that are not finite, or a ridge that is not positive.
    """
    if not 0 < ridge < np.inf:
        raise UsageError(f"ridge is {ridge}, expected a positive number")
    slopes = np.array([_slopes(problem, plan) for plan in plans])
    predicted, wanted = _pairs([problem.loss(plan) for plan in plans], measured)
    scale = float(np.sqrt(np.mean(np.square(wanted)))) or 1.0
    missing = (wanted - predicted) / scale
    decisions = slopes.shape[1]
    pull = np.sqrt(ridge * len(plans) / decisions)
    found = lsq_linear(
        np.concatenate([slopes / scale, pull * np.eye(decisions)]),
        np.concatenate([missing, np.zeros(decisions)]),
        bounds=(-1.0, np.inf),
        method="bvls" if decisions <= 200 else "trf",
    )
    return np.asarray(np.maximum(found.x + 1.0, 0.0), np.float64)


def corrected(problem: Problem, factors: Sequence[float] | Doubles) -> Problem:
    """Return the problem with every loss multiplied by its decision's factor, directions by the factor's root."""
    decisions = tuple(
        _scaled(decision, float(factor))
        for decision, factor in zip(problem.decisions, factors, strict=True)
    )
    return dataclasses.replace(problem, decisions=decisions)


def without_interactions(problem: Problem) -> Problem:
    """Return the problem with prices that simply add up."""
    decisions = tuple(
        dataclasses.replace(
            decision,
            options=tuple(dataclasses.replace(o, directions=None) for o in decision.options),
        )
        for decision in problem.decisions
    )
    return dataclasses.replace(problem, decisions=decisions)


def spearman(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the rank correlation of predicted and measured losses; 0 if either is constant.

    Raises UsageError for fewer than two pairs or numbers that are not finite.
    """
    x, y = _pairs(predicted, measured)
    if len(x) < 2:
        raise UsageError(f"a rank correlation has {len(x)} pairs, expected 2 or more")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(cast("Any", spearmanr(x, y)).statistic)


def _slopes(problem: Problem, plan: Plan) -> Doubles:
    """Return the derivative of a plan's loss by every decision's factor: its price and half its interactions."""
    table = problem.table
    taken = table.rows(plan)
    if table.directions is None:
        return np.asarray(table.loss[taken])
    v = table.directions[taken]
    others = v @ v.sum(axis=0) - np.einsum("dk,dk->d", v, v)
    return np.asarray(table.loss[taken] + others / 2)


def _scaled(decision: Decision, factor: float) -> Decision:
    root = np.sqrt(factor)
    options = tuple(
        dataclasses.replace(
            option,
            loss=option.loss * factor,
            directions=None if option.directions is None else option.directions * root,
        )
        for option in decision.options
    )
    return dataclasses.replace(decision, options=options)


def _pairs(predicted: Sequence[float], measured: Sequence[float]) -> tuple[Doubles, Doubles]:
    x, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise UsageError(
            f"{x.size} predicted and {y.size} measured losses, expected one each of 1 or more"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError("a predicted or measured loss is not finite")
    return x, y
