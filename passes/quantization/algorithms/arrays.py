"""Affine quantization of arrays: q = clip(round(x / scale) + zero, low, high), x ~ (q - zero) * scale.

Rounding is to the nearest, ties to even, as in ONNX's QuantizeLinear.
"""

import dataclasses

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.formats import IntegerFormat

__all__ = ["Affine", "affine", "dequantize", "quantize", "symmetric"]

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Scales and zero points: scalars, or one per index of ``axis``."""

    format: IntegerFormat
    scale: Floats
    zero: Array
    """Of the format's dtype, shaped like ``scale``."""
    axis: int | None = None

    def along(self, array: Array, rank: int) -> Array:
        """Return a per-channel array shaped to broadcast against ``rank`` dimensions."""
        if self.axis is None:
            return array
        shape = [1] * rank
        shape[self.axis] = -1
        return array.reshape(shape)


def symmetric(weights: Array, fmt: IntegerFormat, axis: int | None = None) -> Affine:
    """Return the grid whose ends are the largest magnitude, overall or per index of ``axis``.

    A channel of zeros gets scale 1. Raises ValueError if a weight is not finite.
    """
    _check_finite(weights)
    if fmt.zero is None:
        raise ValueError(f"format {fmt.name} has no fixed zero")
    others = None if axis is None else tuple(k for k in range(weights.ndim) if k != axis)
    largest = np.max(np.abs(weights.astype(np.float64)), axis=others, initial=0.0)
    scale = _as_scale(np.asarray(largest) / fmt.reach)
    return Affine(fmt, scale, np.full(scale.shape, fmt.zero, fmt.dtype), axis)


def affine(low: float, high: float, fmt: IntegerFormat) -> Affine:
    """Return the grid that spans ``low`` to ``high`` and holds zero exactly; the range is widened to include zero.

    Raises ValueError if an end is not finite or they are in the wrong order.
    """
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ValueError(f"range [{low}, {high}] is no range")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _as_scale(np.asarray((high - low) / fmt.steps))
    zero = np.clip(np.rint(fmt.low - low / float(scale)), fmt.low, fmt.high)
    return Affine(fmt, scale, np.asarray(zero, fmt.dtype))


def quantize(values: Array, grid: Affine) -> Array:
    """Return the nearest grid points as integers; values beyond the ends are clipped."""
    _check_finite(values)
    scale = grid.along(grid.scale, values.ndim).astype(np.float64)
    zero = grid.along(grid.zero, values.ndim).astype(np.float64)
    steps = np.rint(values.astype(np.float64) / scale) + zero
    return np.clip(steps, grid.format.low, grid.format.high).astype(grid.format.dtype)


def dequantize(steps: Array, grid: Affine) -> Floats:
    """Return the real numbers that the integers stand for, in float32."""
    scale = grid.along(grid.scale, steps.ndim).astype(np.float32)
    zero = grid.along(grid.zero, steps.ndim).astype(np.int64)
    return np.asarray((steps.astype(np.int64) - zero) * scale, np.float32)


def _as_scale(scale: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Floats:
    """Return float32 scales: 1 where all values are zero, and never so small that 1 / scale overflows."""
    kept = np.where(scale > 0, np.maximum(scale, _TINY), 1.0)
    return np.asarray(kept, np.float32)


def _check_finite(values: Array) -> None:
    if not np.isfinite(values).all():
        raise ValueError("a value is infinite or not a number")
