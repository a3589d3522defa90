"""From a histogram to the range that an integer grid should span.

All rules return ``(low, high)``. What lies outside is clipped; the grid between, which holds zero exactly, is the
affine one of :mod:`whet.passes.quantization.algorithms.arrays`: q = clip(round(x / s) + z, 0, steps) with
s = (high - low) / steps.
"""

from collections.abc import Callable

import numpy as np

from whet.analysis.statistics.base import Doubles
from whet.analysis.statistics.histograms import Counts

__all__ = ["entropy_range", "grid_error", "mse_range", "percentile_range"]

Pair = tuple[float, float]
_CANDIDATES = 40
_ROUNDS = 3
_SMOOTH = 1e-4
_LONG = 1 << 20
"""Numbers that are all far from zero have magnitudes in bins beyond; clipping them would gain nothing."""


def percentile_range(counts: Counts, percentile: float) -> Pair:
    """Return the range that covers ``percentile`` percent; each end leaves out half of the rest."""
    share = np.cumsum(counts.numbers) / max(counts.total, 1)
    tail = (100.0 - percentile) / 200
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail, side="left"))
    low = (counts.first + first) * counts.width
    high = (counts.first + min(last, len(share) - 1) + 1) * counts.width
    return max(low, counts.low), min(high, counts.high)


def grid_error(counts: Counts, lows: Doubles, highs: Doubles, steps: int) -> Doubles:
    """Return the expected squared error of grids with ``steps`` steps that span ``lows`` to ``highs``.

    E (Q(x) - x)²: numbers are taken at the middle of their bin, exact zeros cost nothing, and where a step is hardly
    wider than a bin, what is inside costs s² / 12, the variance of even rounding.
    """
    weights, centers = counts.numbers.astype(np.float64), counts.centers
    if 0 <= -counts.first < len(weights):
        weights[-counts.first] -= counts.zeros
    used = weights > 0
    weights, centers = weights[used], centers[used]
    low, high = np.minimum(lows, 0.0)[:, None], np.maximum(highs, 0.0)[:, None]
    scale = np.maximum((high - low) / steps, np.finfo(np.float64).tiny)
    zero = np.clip(np.rint(-low / scale), 0, steps)
    rounded = np.rint(centers / scale)
    nearest = (np.clip(rounded + zero, 0, steps) - zero) * scale
    error = np.square(nearest - centers)
    inside = (rounded + zero >= 0) & (rounded + zero <= steps)
    fine = inside & (scale < 4 * counts.width)
    error = np.where(fine, scale**2 / 12, error)
    return np.asarray(error @ weights) / max(counts.total, 1)


def mse_range(counts: Counts, steps: int, *, symmetric: bool = False) -> Pair:
    """Return the range whose grid has the least expected squared error.

    ``symmetric`` makes both ends equal in magnitude (``steps`` then counts both sides); otherwise each end is moved in
    turn while the other stays, beginning where both are shrunk alike, until neither move helps.
    """
    largest = max(-counts.low, counts.high, 0.0)
    if largest == 0.0:
        return 0.0, 0.0
    if symmetric:
        best = _shrunk(lambda t: grid_error(counts, -t, t, steps), largest)
        return -best, best
    ends = min(counts.low, 0.0), max(counts.high, 0.0)
    share = _shrunk(lambda t: grid_error(counts, ends[0] * t, ends[1] * t, steps), 1.0)
    low, high = ends[0] * share, ends[1] * share
    for _ in range(4):
        before = low, high
        for end in (1, 0) if high >= -low else (0, 1):
            if end:
                high = _high(counts, low, steps)
            else:
                low = _low(counts, high, steps)
        if (low, high) == before:
            break
    return low + 0.0, high + 0.0


def _high(counts: Counts, low: float, steps: int) -> float:
    limit = max(counts.high, 0.0)
    return _shrunk(lambda t: grid_error(counts, np.full(len(t), low), t, steps), limit)


def _low(counts: Counts, high: float, steps: int) -> float:
    limit = -min(counts.low, 0.0)
    return -_shrunk(lambda t: grid_error(counts, -t, np.full(len(t), high), steps), limit)


def _shrunk(error: Callable[[Doubles], Doubles], limit: float) -> float:
    """Return the end between 0 and ``limit`` with the least error: first far apart, then closer and closer."""
    if limit <= 0.0:
        return 0.0
    tried = limit * np.geomspace(1 / 1024, 1.0, _CANDIDATES)
    for _ in range(_ROUNDS):
        best = int(np.argmin(error(tried)))
        low, high = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
        tried = np.append(np.linspace(low, high, _CANDIDATES), tried[best])
    return float(tried[int(np.argmin(error(tried)))])


def entropy_range(counts: Counts, steps: int) -> Pair:
    """Return the range that loses the least information: min KL(P || Q) over thresholds T.

    P are the magnitudes up to T, with everything beyond at T; Q is the same histogram without what is beyond, merged
    into as many levels as the grid has on one side and spread out again over the bins that were not empty. Exact zeros
    do not count. After Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """
    magnitudes = _magnitudes(counts)
    levels = steps if min(-counts.low, counts.high) <= 0 else max(1, steps // 2)
    if len(magnitudes) <= levels or not magnitudes.any():
        return counts.low, counts.high
    ends = np.unique(np.linspace(levels, len(magnitudes), 4 * _CANDIDATES).astype(int))
    losses = [_divergence(magnitudes, int(end), levels) for end in ends]
    limit = float(ends[int(np.argmin(losses))]) * counts.width
    return max(counts.low, -limit), min(counts.high, limit)


def _magnitudes(counts: Counts) -> Doubles:
    """Return the histogram of |x| without exact zeros; bin k < 0 holds the magnitudes of bin -k - 1."""
    bins = counts.first + np.arange(len(counts.numbers))
    folded = np.where(bins < 0, -bins - 1, bins)
    if folded.max() >= _LONG:
        return np.zeros(0)
    found: Doubles = np.bincount(folded, counts.numbers.astype(np.float64)).astype(np.float64)
    found[0] -= counts.zeros
    return found


def _divergence(magnitudes: Doubles, end: int, levels: int) -> float:
    wanted = magnitudes[:end].copy()
    kept = wanted > 0
    borders = np.arange(levels) * end // levels
    sums = np.add.reduceat(np.where(kept, wanted, 0.0), borders)
    filled = np.add.reduceat(kept.astype(np.float64), borders)
    widths = np.diff(np.append(borders, end))
    level = np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0)
    rough = np.where(kept, np.repeat(level, widths), 0.0)
    wanted[-1] += magnitudes[end:].sum()
    if not rough.any():
        return float("inf")
    p, q = _smoothed(wanted), _smoothed(rough)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(numbers: Doubles) -> Doubles:
    """Return a distribution with a little everywhere, so that no ratio is infinite."""
    share: Doubles = numbers / numbers.sum()
    return (1 - _SMOOTH) * share + _SMOOTH / len(share)
