"""Local search from codes that are already good: change one at a time while the output error falls.

With Δ = Ŵ - W and H the Gram matrix the output error of a row is the quadratic δ H δᵀ. All else fixed it is smallest
where w_k = ŵ_k - (δ H)_k / H_kk, so the best code of column k is the one nearest to that; and the best change of the
scale of a block with codes c is -(c · (δ H)) / (c H cᵀ). Both are taken in turns, over all rows at once: the objective
of AdaRound (Nagel et al., 2020, equation 12) minimized over whole codes instead of a relaxation of up or down.
"""

import dataclasses

import numpy as np

from whet.passes.quantization.algorithms.approximation import Blocks, Doubles, Floats, Layer
from whet.passes.quantization.algorithms.gptq import checked_gram, merge_rows
from whet.passes.quantization.algorithms.grid import TINY, Grid, grid_of, nearest_steps
from whet.passes.quantization.algorithms.rounding import row_errors

__all__ = ["refine_codes"]

_ENOUGH = 1e-3
"""Sweeps end when one gains less than this share."""


def refine_codes(
    layer: Layer,
    start: Blocks,
    *,
    sweeps: int = 6,
    rescale: bool = True,
    damping: float = 0.001,
    block: int = 128,
) -> Blocks:
    """Return codes, and with ``rescale`` scales, whose output error is a local minimum.

    No row is worse than at the start, by ``layer.judge``. At most ``sweeps`` passes over all columns are made;
    ``damping`` is added to the diagonal of H as a share of its mean, ``block`` columns are changed between two updates
    of the slopes of the rest. Raises ValueError without a Gram matrix.
    """
    gram = checked_gram(layer)
    search = _Search(layer, start, damped(gram, damping), block)
    before = start_error = row_errors(layer.weights, start.values(), layer.judge)
    best = start
    for _ in range(sweeps):
        search.sweep(rescale=rescale)
        found = search.blocks()
        after = row_errors(layer.weights, found.values(), layer.judge)
        best = merge_rows(found, best, after < before)
        gain = before.sum() - np.minimum(after, before).sum()
        before = np.minimum(after, before)
        if gain <= _ENOUGH * start_error.sum():
            break
    return best


def damped(gram: Doubles, damping: float) -> Floats:
    """Return H + damping * mean(diag H) * I in float32."""
    result = gram.astype(np.float32)
    np.einsum("ii->i", result)[:] += np.float32(damping * np.diagonal(gram).mean())
    return result


class _Search:
    """Codes and scales of all rows, transposed, so that a column lies together."""

    def __init__(self, layer: Layer, start: Blocks, gram: Floats, block: int) -> None:
        self._grid: Grid = grid_of(start)
        self._gram, self._block = gram, max(1, block)
        self._weights: Floats = np.ascontiguousarray(layer.weights.T, np.float32)
        self._scales: Floats = start.scales.T.copy()
        self._zeros = np.zeros_like(self._scales)
        if start.zeros is not None:
            self._zeros[:] = start.zeros.T
        self._codes: Floats = np.ascontiguousarray(start.codes.T, np.float32)
        self._delta: Floats = np.ascontiguousarray(start.values().T) - self._weights

    def blocks(self) -> Blocks:
        """Return the matrix as it is now."""
        grid = dataclasses.replace(self._grid, scales=self._scales.T.copy())
        return grid.blocks(np.ascontiguousarray(self._codes.T).astype(grid.dtype))

    def sweep(self, *, rescale: bool) -> None:
        """Improve every scale and every code once."""
        inputs, size = len(self._weights), self._grid.size
        for group in range(self._scales.shape[0]):
            first, last = group * size, min((group + 1) * size, inputs)
            if rescale:
                self._rescale(group, slice(first, last))
            for start in range(first, last, self._block):
                self._recode(group, start, min(start + self._block, last))

    def _rescale(self, group: int, part: slice) -> None:
        """Give a block of each row the scale that is best for its codes."""
        steps = self._codes[part] - self._zeros[group]
        slope = np.vecdot(steps.T, (self._gram[part] @ self._delta).T)
        curvature = np.vecdot(steps.T, (self._gram[part, part] @ steps).T)
        change = np.divide(-slope, curvature, out=np.zeros_like(slope), where=curvature > TINY)
        scale = self._scales[group] + change
        usable = np.abs(scale) > TINY
        self._scales[group] = np.where(usable, scale, self._scales[group])
        self._delta[part] = steps * self._scales[group] - self._weights[part]

    def _recode(self, group: int, start: int, stop: int) -> None:
        """Give columns of one group the codes that are best for all others, one after the other."""
        low, high = self._grid.limits
        scale, zero = self._scales[group], self._zeros[group]
        slopes = self._gram[start:stop] @ self._delta
        changes = np.zeros_like(slopes)
        for k, slope in enumerate(slopes, start):
            curvature = float(self._gram[k, k])
            if curvature <= TINY:
                continue
            done = k - start
            slope += self._gram[k, start:k] @ changes[:done]
            wanted = self._delta[k] + self._weights[k] - slope / np.float32(curvature)
            self._codes[k] = nearest_steps(wanted, scale, zero, low, high)
            fresh = (self._codes[k] - zero) * scale - self._weights[k]
            np.subtract(fresh, self._delta[k], out=changes[done])
            self._delta[k] = fresh
