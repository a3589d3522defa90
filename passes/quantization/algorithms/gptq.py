"""GPTQ: rounding column by column, each error carried over to the columns still to come.

Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2022. With the
Gram matrix of the inputs factored as H = U D Uᵀ, U unit upper triangular, column k is rounded at
w_k + sum_{j<k} (w_j - ŵ_j) U_jk, which is the paper's update by the Cholesky factor of H⁻¹ written without an inverse
(Chee et al., QuIP, 2023, theorem 6); the output error is then sum_k D_kk ||what rounding took off column k||².
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.linalg

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Doubles, Floats, Layer
from whet.passes.quantization.algorithms.grid import Grid, check_bits, nearest_steps
from whet.passes.quantization.algorithms.grid_search import least_squares
from whet.passes.quantization.algorithms.rounding import choose_grid, importance, row_errors

__all__ = [
    "checked_gram",
    "factor",
    "gptq",
    "gptq_on_grid",
    "merge_rows",
]

Integers = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
Order = Literal["natural", "act"]

_AUTO = (0.001, 0.01, 0.1)
"""Shares of the mean of the diagonal; each row keeps what left it the smallest error."""
_STRONG = 1.0
"""Tried too where other inputs are there to judge by: it helps where few inputs were seen."""
_LARGEST = 1e3


def gptq(
    layer: Layer,
    bits: int,
    size: int | None = None,
    *,
    symmetric: bool = True,
    order: Order = "act",
    static_groups: bool = True,
    damping: float | Literal["auto"] = "auto",
    block: int = 128,
    full: bool = False,
) -> Blocks:
    """Round the weights so that each column makes up for the errors of the columns before it.

    ``order`` "act" starts with the inputs of the largest mean square; codes are stored in their natural order, which
    takes ``static_groups``: grids are chosen before the first column is rounded. Without them a group's grid is chosen
    when its turn comes. ``damping`` is added to the diagonal of H as a share of its mean; "auto" tries several.
    ``block`` columns are rounded between two updates of the rest. No row is worse than rounded to the nearest, by
    ``layer.judge``.

    Raises ValueError without a Gram matrix, for bits outside 2 to 8, and for act-order without static groups.
    """
    if order == "act" and not static_groups:
        raise ValueError("order 'act' stores natural groups only with static_groups=True")
    checked_gram(layer)
    size = check_bits(layer.weights, bits, size)
    grid = choose_grid(layer, bits, size, symmetric=symmetric, full=full)
    return _best_rows(layer, grid, order, damping, block, dynamic=not static_groups)


def gptq_on_grid(
    layer: Layer,
    grid: Grid,
    *,
    order: Order = "act",
    damping: float | Literal["auto"] = "auto",
    block: int = 128,
) -> Blocks:
    """Round to a grid that is given, like :func:`gptq`; no row is worse than rounded to the nearest point of it."""
    checked_gram(layer)
    return _best_rows(layer, grid, order, damping, block, dynamic=False)


def checked_gram(layer: Layer) -> Doubles:
    """Return the Gram matrix; raises ValueError where there is none, or one that is not of these inputs."""
    inputs = layer.weights.shape[1]
    if layer.gram is None:
        raise ValueError("no Gram matrix: the layer has no calibration data")
    if layer.gram.shape != (inputs, inputs):
        raise ValueError(f"Gram matrix {list(layer.gram.shape)} for a layer with {inputs} inputs")
    if not np.isfinite(layer.gram).all():
        raise ValueError("the Gram matrix has a value that is infinite or not a number")
    return layer.gram


def _best_rows(
    layer: Layer,
    grid: Grid,
    order: Order,
    damping: float | Literal["auto"],
    block: int,
    *,
    dynamic: bool,
) -> Blocks:
    """Try every damping and keep the best for each row."""
    best = grid.nearest(layer.weights)
    errors = row_errors(layer.weights, best.values(), layer.judge)
    auto = _AUTO if layer.held_out is None else (*_AUTO, _STRONG)
    for share in auto if damping == "auto" else (damping,):
        sweep = _Sweep(layer, grid, order, share, block)
        found = sweep.run(dynamic=dynamic)
        lost = row_errors(layer.weights, found.values(), layer.judge)
        best = merge_rows(found, best, lost < errors)
        errors = np.minimum(lost, errors)
    return best


def merge_rows(first: Blocks, second: Blocks, take_first: Array) -> Blocks:
    """Return the rows of the first where ``take_first``, of the second elsewhere."""
    pick = take_first[:, None]
    zeros = None
    if first.zeros is not None and second.zeros is not None:
        zeros = np.where(pick, first.zeros, second.zeros)
    scales: Floats = np.where(pick, first.scales, second.scales)
    codes = np.where(pick, first.codes, second.codes)
    return dataclasses.replace(second, codes=codes, scales=scales, zeros=zeros)


class _Sweep:
    """One pass over the columns; matrices are transposed, so that a column lies together."""

    def __init__(self, layer: Layer, grid: Grid, order: Order, damping: float, block: int) -> None:
        gram = checked_gram(layer)
        inputs = len(gram)
        self._layer, self._grid, self._block = layer, grid, max(1, block)
        self._order: Integers = np.arange(inputs)
        if order == "act":
            self._order = np.argsort(-np.diagonal(gram), kind="stable")
        self._feedback = factor(gram, damping, self._order)
        self._weights: Floats = np.ascontiguousarray(layer.weights.T[self._order], np.float32)
        self._errors = np.zeros_like(self._weights)
        """What rounding took off each column, zero for the columns still to come."""
        self._scales: Floats = grid.scales.T.copy()
        self._zeros = np.zeros_like(self._scales)
        if grid.zeros is not None:
            self._zeros[:] = grid.zeros.T
        self._codes = np.empty(self._weights.shape, grid.dtype)

    def run(self, *, dynamic: bool) -> Blocks:
        """Round all columns; ``dynamic`` chooses the grid of a group when its first column comes."""
        size = self._grid.size
        for start, stop in _spans(len(self._weights), self._block, size if dynamic else None):
            if dynamic and start % size == 0:
                self._choose(start)
            self._round(start, self._targets(start, stop))
        zeros = None
        if self._grid.zeros is not None:
            zeros = np.ascontiguousarray(self._zeros.T).astype(np.uint8)
        scales: Floats = np.ascontiguousarray(self._scales.T, np.float32)
        done = dataclasses.replace(self._grid, scales=scales, zeros=zeros)
        return done.blocks(np.ascontiguousarray(self._codes.T))

    def _targets(self, start: int, stop: int) -> Floats:
        """Return the weights of a few columns with the errors of all columns before ``start`` made up for."""
        past = self._feedback[:start, start:stop].T @ self._errors[:start]
        moved: Floats = np.add(self._weights[start:stop], past, dtype=np.float32)
        return moved

    def _choose(self, start: int) -> None:
        """Choose the grid of the group that begins at a column; the order is natural."""
        stop = min(start + self._grid.size, len(self._weights))
        seen = importance(self._layer)
        grid = least_squares(
            self._targets(start, stop).T,
            self._grid.bits,
            self._grid.size,
            symmetric=self._grid.zeros is None,
            full=self._grid.full,
            weighting=None if seen is None else seen[start:stop],
        )
        self._scales[start // self._grid.size] = grid.scales[:, 0]
        if grid.zeros is not None:
            self._zeros[start // self._grid.size] = grid.zeros[:, 0]

    def _round(self, start: int, targets: Floats) -> None:
        """Round the columns from ``start`` on, one after the other."""
        low, high = self._grid.limits
        for k, target in enumerate(targets, start):
            target += self._feedback[start:k, k] @ self._errors[start:k]
            column = self._order[k]
            scale = self._scales[column // self._grid.size]
            zero = self._zeros[column // self._grid.size]
            steps = nearest_steps(target, scale, zero, low, high)
            self._codes[column] = steps
            steps -= zero
            steps *= scale
            np.subtract(self._weights[k], steps, out=self._errors[k])


def _spans(count: int, block: int, group: int | None) -> Iterator[tuple[int, int]]:
    """Yield ranges of columns: ``block`` at a time, and none across the border of a group."""
    group = count if group is None else group
    for first in range(0, count, group):
        last = min(first + group, count)
        for start in range(first, last, block):
            yield start, min(start + block, last)


def factor(gram: Doubles, damping: float, order: Integers | Sequence[int]) -> Floats:
    """Return U of H + damping * mean(diag H) * I = U D Uᵀ, unit upper triangular, rows and columns in an order.

    Inputs that are always zero are taken as independent ones. Damping is raised tenfold until H is positive definite;
    raises ValueError where that does not help.
    """
    chosen = np.asarray(order)
    dead = np.diagonal(gram) <= 0
    level = float(np.diagonal(gram)[~dead].mean()) if not dead.all() else 1.0
    while damping <= _LARGEST:
        # The factor from the last column up is the Cholesky factor of the matrix turned around.
        turned = gram[np.ix_(chosen[::-1], chosen[::-1])]
        np.einsum("ii->i", turned)[:] += np.where(dead, level, damping * level)[chosen[::-1]]
        try:
            lower = scipy.linalg.cholesky(
                turned.T, lower=True, overwrite_a=True, check_finite=False
            )
        except np.linalg.LinAlgError:
            damping = max(damping * 10, 1e-8)
            continue
        upper: Doubles = lower[::-1, ::-1]
        unit: Floats = np.divide(upper, np.diagonal(upper)).astype(np.float32)
        return unit
    raise ValueError(
        f"the Gram matrix is not positive semidefinite, even with damping {damping / 10:g}"
    )
