"""What rounding weights does to the mean of the outputs, taken back by the bias.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, with the mean
of the inputs measured: E[W x] - E[Ŵ x] = (W - Ŵ) E[x].
"""

import dataclasses

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Approximation, Doubles, Floats, Layer

__all__ = ["centered", "corrected_bias"]


def corrected_bias(bias: Array | None, layer: Layer, stored: Approximation, mean: Array) -> Floats:
    """Return bias + (W - Ŵ) E[x], ``[outputs]``; ``mean`` is E[x], ``[inputs]``, and no bias counts as zeros.

    Raises ValueError where the mean does not have one finite number for each input.
    """
    inputs = layer.weights.shape[1]
    if mean.shape != (inputs,):
        raise ValueError(f"mean of shape {list(mean.shape)} for a layer with {inputs} inputs")
    if not np.isfinite(mean).all():
        raise ValueError("a mean is infinite or not a number")
    lost: Doubles = np.subtract(layer.weights, stored.values(), dtype=np.float64)
    shift = lost @ mean.astype(np.float64)
    old = np.zeros_like(shift) if bias is None else bias.astype(np.float64)
    return np.asarray(old + shift, np.float32)


def centered(layer: Layer, mean: Array) -> Layer:
    """Return the layer with the covariance E[x xᵀ] - E[x] E[x]ᵀ in place of the Gram matrix.

    With corrected biases the mean squared output error is tr(Δ Cov(x) Δᵀ), so this is what to round by.
    """
    if layer.gram is None:
        raise ValueError("no Gram matrix: the layer has no calibration data")
    exact: Doubles = mean.astype(np.float64)
    return dataclasses.replace(layer, gram=layer.gram - np.outer(exact, exact))
