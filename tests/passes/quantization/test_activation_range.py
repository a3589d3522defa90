import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.analysis.ranges import Range
from whet.passes.quantization.activation_range import dynamic_error, fit_range
from whet.passes.quantization.algorithms.arrays import affine, dequantize, quantize
from whet.passes.quantization.algorithms.formats import UINT8


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(x: np.ndarray) -> Range:
    return Range(float(x.min()), float(x.max()))


@given(st.integers(0, 50), st.floats(1, 100))
def test_a_fitted_grid_is_never_worse_than_the_whole_range(seed: int, outlier: float) -> None:
    x, w = normal(40, 8, seed=seed), normal(8, 6, seed=seed + 1)
    x[3, 2] *= outlier
    grid = affine(*vars(seen(x)).values(), UINT8)
    lost = np.linalg.norm((dequantize(quantize(x, grid), grid) - x) @ w) / np.linalg.norm(x @ w)
    assert fit_range(x, w, seen(x), UINT8).error <= lost * (1 + 1e-6)


def test_an_outlier_that_the_product_does_not_see_is_clipped() -> None:
    x, w = normal(500, 8), normal(8, 6)
    x[:, 0] *= 30
    w[0] = 0
    fit = fit_range(x, w, seen(x), UINT8)
    whole = affine(float(x.min()), float(x.max()), UINT8)
    assert fit.grid.scale < 0.5 * whole.scale
    w[0] = 10
    assert fit_range(x, w, seen(x), UINT8).grid.scale > 0.7 * whole.scale


def test_a_grid_per_sample_follows_samples_of_different_sizes() -> None:
    x = normal(4, 50, 8) * np.asarray([1, 1, 1, 40], np.float32).reshape(-1, 1, 1)
    w = normal(8, 6)
    quiet = x[:3]
    assert dynamic_error(quiet, w, UINT8) < 0.1 * fit_range(quiet, w, seen(x), UINT8).error * 10
    assert dynamic_error(quiet, w, UINT8) < 0.02


def test_zeros_lose_nothing() -> None:
    x, w = np.zeros((4, 8), np.float32), normal(8, 6)
    assert fit_range(x, w, Range(0, 0), UINT8).error == 0
    assert dynamic_error(x, w, UINT8) == 0


def test_many_rows_are_thinned_out() -> None:
    x, w = normal(5000, 8), normal(8, 6)
    assert fit_range(x, w, seen(x), UINT8).error == pytest.approx(
        fit_range(x[::4], w, seen(x), UINT8).error, rel=0.05
    )
