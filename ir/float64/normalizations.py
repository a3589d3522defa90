"""Normalizations of ONNX Runtime's own in double precision."""

from collections.abc import Mapping

import numpy as np

from whet.ir.execute import CannotRun
from whet.ir.float64.kernel import Attributes, Floats, Kernel, floats, integer, real
from whet.ir.values import Array

__all__ = ["NORMALIZATIONS", "normalize_layer", "normalize_rms"]


def normalize_layer(
    x: Floats, scale: Floats, bias: Floats | None, epsilon: float, axis: int = -1
) -> tuple[Floats, Floats, Floats]:
    """Return ``scale (x - mean) / sqrt(variance + epsilon) + bias``, the mean and one over the root."""
    mean = x.mean(_axes(x, axis), keepdims=True)
    y, inverse = normalize_rms(x - mean, scale, epsilon, axis)
    return y if bias is None else y + bias, mean, inverse


def normalize_rms(
    x: Floats, scale: Floats, epsilon: float, axis: int = -1
) -> tuple[Floats, Floats]:
    """Return ``scale x / sqrt(mean(x**2) + epsilon)`` and one over the root."""
    inverse = 1 / np.sqrt((x * x).mean(_axes(x, axis), keepdims=True) + epsilon)
    return x * inverse * scale, inverse


def _axes(x: Floats, axis: int) -> tuple[int, ...]:
    return tuple(range(axis % x.ndim, x.ndim))


def _run_simplified(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    x, scale = floats(inputs, 2)
    if x is None or scale is None:
        raise CannotRun("an operand is missing")
    epsilon, axis = real(attributes, "epsilon", 1e-5), integer(attributes, "axis", -1)
    return normalize_rms(x, scale, epsilon, axis)


def _run_skip(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    x, skip, gamma, beta, bias = floats(inputs, 5)
    if x is None or skip is None or gamma is None:
        raise CannotRun("an operand is missing")
    total = x + skip if bias is None else x + skip + bias
    return *normalize_layer(total, gamma, beta, real(attributes, "epsilon", 1e-12)), total


def _run_skip_simplified(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    x, skip, gamma, bias = floats(inputs, 4)
    if x is None or skip is None or gamma is None:
        raise CannotRun("an operand is missing")
    total = x + skip if bias is None else x + skip + bias
    y, inverse = normalize_rms(total, gamma, real(attributes, "epsilon", 1e-12))
    return y, total.mean(-1, keepdims=True), inverse, total


NORMALIZATIONS: Mapping[tuple[str, str], Kernel] = {
    ("", "SimplifiedLayerNormalization"): _run_simplified,
    ("com.microsoft", "SkipLayerNormalization"): _run_skip,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _run_skip_simplified,
}
