"""Activation smoothing on arrays: scales per channel, and what quantized products lose with them.

s_j = max|X_j|^α / max|W_j|^(1-α), X ← X / s, W ← W s (Xiao et al., "SmoothQuant", 2022). Which α is
best is tried, by the error of the quantized product on real data. With activations in float and few bits for the
weights the same search is that of Lin et al., "AWQ" (2023).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whet.passes.quantization.algorithms.equalization import balanced

__all__ = ["Product", "Rounding", "product_error", "smoothing_scales"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
_ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What products are rounded to."""

    weight_bits: int = 8
    activation_bits: int = 8
    """One grid for the whole tensor, over its range; 0 keeps activations in float."""
    block: int = 0
    """Inputs that share a scale; 0 is a scale per output channel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """One product that reads the channels: y = x W."""

    rows: Floats
    """Sampled x, ``[count, inputs]``."""
    weight: Floats
    """``[inputs, outputs]``."""
    low: Floats
    """The smallest value of each input over all data."""
    high: Floats
    labels: Labels
    """The channel of each input."""


def smoothing_scales(
    products: Sequence[Product], frozen: NDArray[np.bool_], rounding: Rounding, gain: float
) -> tuple[Floats, float, float]:
    """Return the best scales per channel, and the squared error of the products before and after.

    Scales of one are returned where no α lowers the error by the share ``gain``.
    """
    neutral = np.ones(frozen.size)
    before = _total(products, neutral, rounding)
    best, least = neutral, before * (1 - gain)
    for scales in _candidates(products, frozen):
        error = _total(products, scales, rounding)
        if error < least:
            best, least = scales, error
    return best, before, before if best is neutral else least


def _candidates(products: Sequence[Product], frozen: NDArray[np.bool_]) -> Iterator[Floats]:
    peaks, reads = np.zeros(frozen.size), np.zeros(frozen.size)
    for product in products:
        peak = np.maximum(np.abs(product.low), np.abs(product.high))
        np.maximum.at(peaks, product.labels, peak)
        np.maximum.at(reads, product.labels, np.abs(product.weight).max(axis=1))
    for alpha in _ALPHAS:
        yield balanced(peaks, reads, alpha, frozen)


def _total(products: Sequence[Product], scales: Floats, rounding: Rounding) -> float:
    return sum(product_error(product, scales, rounding) for product in products)


def product_error(product: Product, scales: Floats, rounding: Rounding) -> float:
    """Return ||Q(x / s) Q(s W) - x W||² / ||x W||² over the sampled rows."""
    s = scales[product.labels]
    weight = _round_weight(product.weight * s[:, None], rounding)
    rows = product.rows / s
    if rounding.activation_bits:
        low, high = float((product.low / s).min()), float((product.high / s).max())
        rows = _round_rows(rows, min(low, 0.0), max(high, 0.0), rounding.activation_bits)
    wanted = product.rows @ product.weight
    energy = float(np.vdot(wanted, wanted))
    lost = rows @ weight - wanted
    return float(np.vdot(lost, lost)) / energy if energy > 0 else 0.0


def _round_rows(rows: Floats, low: float, high: float, bits: int) -> Floats:
    step = (high - low) / (2**bits - 1)
    if step == 0:
        return rows
    zero = np.rint(-low / step)
    return np.asarray((np.clip(np.rint(rows / step) + zero, 0, 2**bits - 1) - zero) * step)


def _round_weight(weight: Floats, rounding: Rounding) -> Floats:
    """Round to symmetric grids, one per output and block of inputs."""
    inputs, outputs = weight.shape
    size = rounding.block or inputs
    padded = np.zeros((-(-inputs // size) * size, outputs))
    padded[:inputs] = weight
    blocks = padded.reshape(-1, size, outputs)
    reach = 2 ** (rounding.weight_bits - 1) - 1
    step = np.abs(blocks).max(axis=1, keepdims=True) / reach
    step[step == 0] = 1.0
    rounded = np.clip(np.rint(blocks / step), -reach, reach) * step
    return np.asarray(rounded.reshape(-1, outputs)[:inputs])
