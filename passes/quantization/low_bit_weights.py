"""Weights on grids of few bits with a scale per channel, by the method that loses least on held-out data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import (
    Blocks,
    Doubles,
    Floats,
    Layer,
    output_error,
)
from whet.passes.quantization.algorithms.arrays import Affine
from whet.passes.quantization.algorithms.bias_correction import corrected_bias
from whet.passes.quantization.algorithms.formats import IntegerFormat
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.input_moments import Moments, Seen
from whet.passes.quantization.weight_codes import Codes, Weights

__all__ = ["METHODS", "learned_codes", "low_bit_codes", "nearest_blocks"]

Method = Callable[[Layer, int], Blocks]


def _nearest(layer: Layer, bits: int) -> Blocks:
    return round_to_nearest(layer, bits)


def _gptq(layer: Layer, bits: int) -> Blocks:
    return gptq(layer, bits) if layer.gram is not None else round_to_nearest(layer, bits)


METHODS: Mapping[str, Method] = {"nearest": _nearest, "gptq": _gptq}


def low_bit_codes(weights: Weights, bits: int, method: str, seen: Seen | None) -> Codes:
    """Round to ``bits`` bits; the bias takes back what that does to the mean of the outputs.

    Since it does, layers are judged by the covariance of their inputs: tr(Δ Cov(x) Δᵀ). ``auto`` keeps for each layer
    the method with the smallest such error on held-out data.
    """
    layers = _layers(weights, seen)
    names = list(METHODS) if method == "auto" else [method]
    found = {name: [METHODS[name](layer, bits) for layer in layers] for name in names}
    best = min(names, key=lambda name: _error(layers, found[name], seen))
    return _codes(weights, layers, found[best], bits, seen, best)


def nearest_blocks(weights: Weights, bits: int, seen: Seen | None) -> Blocks:
    """Return the weights of all groups as one matrix, each rounded to the nearest."""
    parts = [_nearest(layer, bits) for layer in _layers(weights, seen)]
    codes, scales = (
        np.concatenate(a) for a in zip(*((p.codes, p.scales) for p in parts), strict=True)
    )
    return Blocks(codes, scales, None, bits, parts[0].size)


def learned_codes(weights: Weights, blocks: Blocks) -> Codes:
    """Return codes that were learned together with the bias, which therefore stays as it is."""
    parts = [
        dataclasses.replace(blocks, codes=codes, scales=scales)
        for codes, scales in zip(
            *(np.split(a, weights.groups) for a in (blocks.codes, blocks.scales)), strict=True
        )
    ]
    return _codes(weights, _layers(weights, None), parts, blocks.bits, None, "adaround")


def _layers(weights: Weights, seen: Seen | None) -> list[Layer]:
    fit = seen.fit if seen is not None else (None,) * weights.groups
    return [
        Layer(part, None if moments is None else moments.covariance)
        for part, moments in zip(np.split(weights.matrix(), weights.groups), fit, strict=True)
    ]


def _error(layers: Sequence[Layer], parts: Sequence[Blocks], seen: Seen | None) -> float:
    held: Sequence[Moments | None] = (None,) * len(layers) if seen is None else seen.judge
    return sum(
        output_error(layer.weights, part.values(), None if m is None else m.covariance)
        for layer, part, m in zip(layers, parts, held, strict=True)
    )


def _codes(
    weights: Weights,
    layers: Sequence[Layer],
    parts: Sequence[Blocks],
    bits: int,
    seen: Seen | None,
    method: str,
) -> Codes:
    integers = np.concatenate([part.codes for part in parts])
    scales = np.concatenate([part.scales[:, 0] for part in parts])
    fmt = IntegerFormat(f"int{bits}", np.int8, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, zero=0)
    grid = Affine(
        fmt, np.asarray(scales, np.float32), np.zeros(scales.shape, np.int8), weights.axis
    )
    bias = weights.bias
    if seen is not None and weights.takes_bias:
        bias = _corrected(weights, layers, parts, [m.mean for m in seen.fit])
    return Codes(weights.arranged(integers), grid, bits, bias, method)


def _corrected(
    weights: Weights, layers: Sequence[Layer], parts: Sequence[Blocks], means: Sequence[Doubles]
) -> Floats:
    old: Sequence[Array | None] = [None] * len(layers)
    if weights.bias is not None:
        old = np.split(weights.bias, len(layers))
    return np.concatenate(
        [
            corrected_bias(bias, layer, part, mean)
            for bias, layer, part, mean in zip(old, layers, parts, means, strict=True)
        ]
    )
