"""Rounding to the nearest grid point, the ends of the grid clipped where that loses less."""

import dataclasses
from typing import Literal

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Doubles, Floats, Layer
from whet.passes.quantization.algorithms.grid import Grid, check_bits
from whet.passes.quantization.algorithms.grid_search import extremes, least_squares

__all__ = ["choose_grid", "importance", "round_to_nearest", "row_errors"]

_FLOOR = 1e-3
"""Weight of an input that was never seen, as a share of the mean: it may be seen later."""
_ROWS = 256


def round_to_nearest(
    layer: Layer,
    bits: int,
    size: int | None = None,
    *,
    symmetric: bool = True,
    clip: Literal["extremes", "mse"] = "mse",
    weighting: Doubles | None = None,
    full: bool = False,
) -> Blocks:
    """Round every weight to the nearest point of a grid with a scale for each ``size`` inputs of each row.

    ``size`` None is one scale per row. With ``clip`` "mse" the grid of a block minimizes sum h (ŵ - w)², where h is
    ``weighting`` (``[inputs]`` or ``[outputs, inputs]``), by default the diagonal of the Gram matrix; rows whose output
    error is smaller without clipping are not clipped. ``full`` lets symmetric grids use -2^(bits - 1). Raises
    ValueError for bits outside 2 to 8 and for weights that are not finite.
    """
    grid = choose_grid(
        layer, bits, size, symmetric=symmetric, clip=clip, weighting=weighting, full=full
    )
    return grid.nearest(layer.weights)


def choose_grid(
    layer: Layer,
    bits: int,
    size: int | None = None,
    *,
    symmetric: bool = True,
    clip: Literal["extremes", "mse"] = "mse",
    weighting: Doubles | None = None,
    full: bool = False,
) -> Grid:
    """Return the grid that :func:`round_to_nearest` rounds to."""
    weights = layer.weights
    size = check_bits(weights, bits, size)
    widest = extremes(weights, bits, size, symmetric=symmetric, full=full)
    if clip == "extremes":
        return widest
    h = importance(layer) if weighting is None else weighting
    clipped = least_squares(weights, bits, size, symmetric=symmetric, full=full, weighting=h)
    if layer.judge is None:
        return clipped
    errors = [
        row_errors(weights, g.nearest(weights).values(), layer.judge) for g in (widest, clipped)
    ]
    return _rows_of(widest, clipped, errors[0] < errors[1])


def importance(layer: Layer) -> Doubles | None:
    """Return how much an error of each weight matters, ``[inputs]``: the mean square of its input; None if unknown."""
    if layer.gram is None:
        return None
    seen: Doubles = np.maximum(np.diagonal(layer.gram), 0.0)
    mean = float(seen.mean())
    return seen / mean + _FLOOR if mean > 0 else None


def row_errors(weights: Array, other: Array, gram: Doubles | None) -> Doubles:
    """Return δ H δᵀ for each row δ of other - weights, with H the Gram matrix or the identity, in float64."""
    errors = np.empty(len(weights))
    for start in range(0, len(weights), _ROWS):
        part = slice(start, start + _ROWS)
        delta: Doubles = np.subtract(other[part], weights[part], dtype=np.float64)
        errors[part] = np.vecdot(delta if gram is None else delta @ gram, delta)
    return np.maximum(errors, 0.0)


def _rows_of(first: Grid, second: Grid, take_first: Array) -> Grid:
    """Return the first grid where ``take_first``, the second elsewhere, row by row."""
    pick = take_first[:, None]
    scales: Floats = np.where(pick, first.scales, second.scales)
    zeros = None
    if first.zeros is not None and second.zeros is not None:
        zeros = np.where(pick, first.zeros, second.zeros)
    return dataclasses.replace(second, scales=scales, zeros=zeros)
