import dataclasses

import numpy as np
import pytest
from folding import build, weights

from whet.passes.quantization.algorithms.formats import INT8
from whet.passes.quantization.weight_codes import Weights, nearest_codes

CASES = {
    "Conv": ("(float[N,8,5,5] x) => (float[N,6,5,5] y) { y = Conv(x, w, b) }", (6, 8, 1, 1), 0),
    "ConvTranspose": (
        "(float[N,8,5,5] x) => (float[N,6,5,5] y) { y = ConvTranspose(x, w, b) }",
        (8, 6, 1, 1),
        1,
    ),
    "MatMul": ("(float[N,8] x) => (float[N,6] y) { y = MatMul(x, w) }", (8, 6), 1),
    "Gemm": ("(float[N,8] x) => (float[N,6] y) { y = Gemm<transB=1>(x, w, b) }", (6, 8), 0),
}


def read(kind: str) -> Weights:
    text, shape, _ = CASES[kind]
    return Weights.of(next(iter(build(text, weights(w=shape, b=(6,))).graph)))


@pytest.mark.parametrize("kind", CASES)
def test_rows_are_output_channels(kind: str) -> None:
    found = read(kind)
    assert found.axis == CASES[kind][2]
    assert found.matrix().shape == (6, 8)
    assert np.array_equal(found.arranged(found.matrix()), found.array)
    assert found.takes_bias == (kind != "MatMul")


@pytest.mark.parametrize("kind", CASES)
def test_no_weight_is_further_away_than_half_a_step(kind: str) -> None:
    found = read(kind)
    codes = nearest_codes(found, INT8, 0.1)
    scale = codes.grid.along(codes.grid.scale, found.array.ndim)
    assert codes.grid.scale.shape == (6,)
    assert (np.abs(codes.values() - found.array) <= scale * 0.5001).all()
    assert codes.nbytes == 48 + 24 + (0 if found.bias is None else 24)


def test_a_large_bias_widens_the_grid() -> None:
    found = read("Gemm")
    assert found.bias is not None
    large = found.bias.copy()
    large[2] = 1e9
    grid = nearest_codes(dataclasses.replace(found, bias=large), INT8, 1e-3).grid
    assert abs(large[2]) / (grid.scale[2] * 1e-3) <= 2.0**30
