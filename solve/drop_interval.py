"""How sure a measured drop between two models is, from the scores of the same samples."""

import dataclasses
import math

import numpy as np
from scipy.stats import beta, norm

from whet.errors import UsageError
from whet.ir.array import Array
from whet.solve.allocation import Doubles

__all__ = ["Interval", "drop_interval"]

_LARGE = 10_000
"""Samples from which the mean of differences is taken to be normal."""
_RESAMPLES = 4000
_AT_ONCE = 1 << 22
"""Numbers drawn at once while resampling."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A drop of the mean score, before minus after, and where the true one lies with the given confidence."""

    drop: float
    low: float
    high: float
    method: str
    """``exact`` for scores of 0 and 1, ``bootstrap``, or ``normal``."""


def drop_interval(before: Array, after: Array, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the drop of the mean of paired scores ``[samples]`` with its two-sided interval.

    Scores of 0 and 1 (right or wrong): m of n samples changed, b of these were lost, and drop = (2p - 1) q with q the
    share that changes and p the share of these that is lost. b given m is binomial, as in McNemar's exact test
    (Psychometrika 12, 1947), and so is m: the Clopper-Pearson bounds of p, at four fifths of the error allowed, and of
    q, at one fifth, hold at once with the given confidence for every n. Other scores: the percentile interval of the
    seeded paired bootstrap (Efron, 1979), or from 10,000 samples on mean ± z sd / sqrt(n). Raises UsageError for
    scores that are not paired, not finite, or fewer than two, and for a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}, expected more than 0 and less than 1")
    lost = _differences(before, after)
    both = np.concatenate([before, after])
    if np.isin(both, (0, 1)).all():
        return _exact(lost, confidence)
    if len(lost) >= _LARGE:
        return _normal(lost, confidence)
    return _bootstrap(lost, confidence, seed)


def _differences(before: Array, after: Array) -> Doubles:
    one, other = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
        raise UsageError(
            f"scores have shapes {list(one.shape)} and {list(other.shape)}, "
            "expected one each of 2 or more samples"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise UsageError("a score is not finite")
    return one - other


def _exact(lost: Doubles, confidence: float) -> Interval:
    n, m, b = len(lost), int(np.count_nonzero(lost)), int(np.count_nonzero(lost > 0))
    p = _clopper_pearson(b, m, 0.8 * (1 - confidence))
    q = _clopper_pearson(m, n, 0.2 * (1 - confidence))
    ends = [(2 * share - 1) * changed for share in p for changed in q]
    return Interval(float(lost.mean()), min(ends), max(ends), "exact")


def _clopper_pearson(hits: int, trials: int, error: float) -> tuple[float, float]:
    """Return the bounds of a share; 0 to 1 without trials."""
    low = float(beta.ppf(error / 2, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - error / 2, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _normal(lost: Doubles, confidence: float) -> Interval:
    mean, error = float(lost.mean()), float(lost.std(ddof=1)) / math.sqrt(len(lost))
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    return Interval(mean, mean - reach, mean + reach, "normal")


def _bootstrap(lost: Doubles, confidence: float, seed: int) -> Interval:
    rng = np.random.default_rng(seed)
    n = len(lost)
    portion = max(1, _AT_ONCE // n)
    means: list[Doubles] = []
    for start in range(0, _RESAMPLES, portion):
        count = min(portion, _RESAMPLES - start)
        means.append(lost[rng.integers(0, n, (count, n))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(lost.mean()), float(low), float(high), "bootstrap")
