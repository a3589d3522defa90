"""Grids that lose least: scale and zero point of every block by search over how much of the range is kept."""

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Doubles, Floats
from whet.passes.quantization.algorithms.grid import TINY, Grid, as_blocks, code_limits

__all__ = ["extremes", "least_squares"]

Truths = np.ndarray[tuple[int, ...], np.dtype[np.bool]]

_PORTION = 2**18
"""Weights searched at a time, so that temporaries stay in the cache."""
_RATIO = 0.9
_SHRINK = tuple(_RATIO**k for k in range(25))
"""Shares of the range that are tried; refined by fractions of a step around the best."""
_GAIN = 1e-5
"""A candidate must be better by this share, so that sums in float32 cannot pass a worse one off as better."""


def extremes(weights: Array, bits: int, size: int, *, symmetric: bool, full: bool = False) -> Grid:
    """Return the grid whose ends are the largest values of each block; zero is a grid point.

    A block of zeros gets scale 1.
    """
    blocks = as_blocks(weights, size)
    low, high = _ends(blocks, symmetric)
    scales, zeros = _span(low, high, bits, symmetric)
    stored = None if symmetric else zeros.astype(np.uint8)
    return Grid(scales, stored, bits, size, full and symmetric)


def least_squares(
    weights: Array,
    bits: int,
    size: int,
    *,
    symmetric: bool,
    full: bool = False,
    weighting: Doubles | None = None,
) -> Grid:
    """Return the grid of each block that minimizes sum h (ŵ - w)², never worse than :func:`extremes`.

    ``weighting`` h is ``[inputs]`` or ``[outputs, inputs]``, all ones if left out. Ranges are shrunk in steps, at both
    ends and at each alone, then scale and codes are improved in turns: for fixed codes c the best scale is
    sum h w c / sum h c².
    """
    outputs, inputs = weights.shape
    h = np.ones((1, inputs)) if weighting is None else np.atleast_2d(weighting)
    count = -(-inputs // size)
    scales = np.empty((outputs, count), np.float32)
    zeros = np.zeros((outputs, count), np.float32)
    rows = max(1, _PORTION // inputs)
    for start in range(0, outputs, rows):
        part = slice(start, start + rows)
        weight_h = as_blocks(h if len(h) == 1 else h[part], size)
        search = _Search(as_blocks(weights[part], size), weight_h, bits, symmetric, full)
        search.run()
        scales[part], zeros[part] = search.scale, search.zero
    stored = None if symmetric else zeros.astype(np.uint8)
    return Grid(scales, stored, bits, size, full and symmetric)


def _ends(blocks: Floats, symmetric: bool) -> tuple[Floats, Floats]:
    if symmetric:
        reach: Floats = np.abs(blocks).max(2)
        return -reach, reach
    return np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)


def _span(low: Floats, high: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats]:
    """Return the scale and the zero point of a grid from ``low`` to ``high``."""
    bottom, top = code_limits(bits, symmetric=symmetric)
    width = high.astype(np.float64) - low
    scale = np.where(width > 0, np.maximum(width / (top - bottom), TINY), 1.0).astype(np.float32)
    if symmetric:
        return scale, np.zeros_like(scale)
    zero = np.clip(np.rint(-low.astype(np.float64) / scale), bottom, top)
    return scale, zero.astype(np.float32)


class _Search:
    """The best grid so far of each block of a few rows, and what it loses."""

    def __init__(self, w: Floats, h: Floats, bits: int, symmetric: bool, full: bool) -> None:
        self._w, self._h = w, h
        self._bits, self._symmetric = bits, symmetric
        self._signs = (1.0, -1.0) if full and symmetric else (1.0,)
        self._low, self._high = code_limits(bits, symmetric=symmetric, full=full)
        self._ends = _ends(w, symmetric)
        self.scale, self.zero = _span(*self._ends, bits, symmetric)
        self._loss = self._measure(self.scale, self.zero)
        self._kept = np.ones_like(self.scale), np.ones_like(self.scale)
        """Shares of the lower and of the upper end that the best range keeps."""

    def run(self) -> None:
        """Try ranges from coarse to fine, then refine the best."""
        for share in _SHRINK:
            self._shrink(*(np.full_like(self.scale, share) for _ in range(2)))
        if not self._symmetric:
            self._one_end()
        for fraction in (0.5, 0.25):
            for change in (_RATIO**fraction, _RATIO**-fraction):
                lower, upper = self._kept
                self._shrink(lower * change, upper * change)
        self._refine()

    def _one_end(self) -> None:
        for share in (0.85, 0.7, 0.55, 0.4, 0.25):
            lower, upper = self._kept
            self._shrink(lower * share, upper)
            self._shrink(lower, upper * share)

    def _shrink(self, lower: Floats, upper: Floats) -> None:
        """Consider the range that keeps shares of both ends."""
        low, high = self._ends
        scale, zero = _span(low * lower, high * upper, self._bits, self._symmetric)
        for sign in self._signs:
            better = self._consider(np.float32(sign) * scale, zero)
            for kept, share in zip(self._kept, (lower, upper), strict=True):
                np.copyto(kept, share, where=better)

    def _refine(self) -> None:
        """Improve scales for fixed codes; move zero points by one."""
        shifts = (0, 1, -1, 0) if not self._symmetric else (0, 0, 0)
        bottom, top = code_limits(self._bits, symmetric=False)
        for shift in shifts:
            zero = np.clip(self.zero + shift, bottom, top) if shift else self.zero
            self._consider(self._best_scale(self.scale, zero), zero)

    def _best_scale(self, scale: Floats, zero: Floats) -> Floats:
        codes = self._codes(scale, zero)
        weighted = codes * self._h
        above = np.vecdot(weighted, self._w)
        below = np.vecdot(weighted, codes)
        usable = (below > 0) & (np.abs(above) > TINY * below)
        return np.divide(above, below, out=scale.copy(), where=usable)

    def _codes(self, scale: Floats, zero: Floats) -> Floats:
        """Return code - zero of every weight, ``[rows, blocks, size]``."""
        zero = zero[..., None]
        steps: Floats = self._w / scale[..., None]
        np.rint(steps, out=steps)
        return np.clip(steps, self._low - zero, self._high - zero, out=steps)

    def _measure(self, scale: Floats, zero: Floats) -> Floats:
        """Return the weighted squared error of every block."""
        lost = self._codes(scale, zero)
        lost *= scale[..., None]
        lost -= self._w
        with np.errstate(over="ignore"):
            return np.asarray(np.vecdot(lost * self._h, lost), np.float32)

    def _consider(self, scale: Floats, zero: Floats) -> Truths:
        """Keep a grid where it loses less; return where."""
        loss = self._measure(scale, zero)
        better: Truths = loss < self._loss * (1 - _GAIN)
        for best, new in ((self.scale, scale), (self.zero, zero), (self._loss, loss)):
            np.copyto(best, new, where=better)
        return better
