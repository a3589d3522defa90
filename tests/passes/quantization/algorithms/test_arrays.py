import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.arrays import affine, dequantize, quantize, symmetric
from whet.passes.quantization.algorithms.formats import (
    INT7,
    INT8,
    INT8_ACTIVATION,
    UINT8,
    UINT8_WEIGHT,
    IntegerFormat,
)

FLOATS = st.floats(-1e4, 1e4, width=32)
MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=FLOATS
)
WEIGHT_FORMATS = st.sampled_from([INT8, INT7, UINT8_WEIGHT])
ACTIVATION_FORMATS = st.sampled_from([UINT8, INT8_ACTIVATION])


@given(MATRICES, WEIGHT_FORMATS, st.sampled_from([None, 0, 1]))
def test_symmetric_error_is_at_most_half_a_step(
    weights: np.ndarray, fmt: IntegerFormat, axis: int | None
) -> None:
    grid = symmetric(weights, fmt, axis)
    steps = quantize(weights, grid)
    assert steps.dtype == fmt.dtype
    error = np.abs(dequantize(steps, grid).astype(np.float64) - weights)
    assert (error <= grid.along(grid.scale, 2) * 0.5001).all()
    assert (dequantize(steps, grid)[weights == 0] == 0).all()


@given(
    FLOATS,
    FLOATS,
    ACTIVATION_FORMATS,
    arrays.arrays(np.float32, 7, elements=st.floats(0, 1, width=32)),
)
def test_affine_error_is_at_most_half_a_step_inside_the_range(
    a: float, b: float, fmt: IntegerFormat, shares: np.ndarray
) -> None:
    low, high = min(a, b), max(a, b)
    grid = affine(low, high, fmt)
    low, high = min(low, 0.0), max(high, 0.0)
    values = (low + (high - low) * shares.astype(np.float64)).astype(np.float32)
    error = np.abs(dequantize(quantize(values, grid), grid).astype(np.float64) - values)
    # The zero point is rounded as well, so a value at an end can lose another half step.
    assert (error <= float(grid.scale) * 1.001).all()
    assert dequantize(quantize(np.zeros(1, np.float32), grid), grid)[0] == 0


@given(arrays.arrays(np.float32, 9, elements=FLOATS), ACTIVATION_FORMATS)
def test_quantization_is_monotone(values: np.ndarray, fmt: IntegerFormat) -> None:
    values = np.sort(values)
    grid = affine(-100.0, 300.0, fmt)
    assert (np.diff(quantize(values, grid).astype(int)) >= 0).all()


def test_channels_of_zeros_and_constants_are_exact() -> None:
    weights = np.stack([np.zeros(4), np.full(4, -3.25)]).astype(np.float32)
    grid = symmetric(weights, INT8, 0)
    assert grid.scale[0] == 1
    assert (quantize(weights, grid) == [[0] * 4, [-127] * 4]).all()
    np.testing.assert_allclose(dequantize(quantize(weights, grid), grid), weights, rtol=1e-6)


def test_rounding_is_to_the_nearest_even() -> None:
    grid = affine(0.0, 255.0, UINT8)
    assert quantize(np.float32([0.5, 1.5, 2.5, 300.0, -1.0]), grid).tolist() == [0, 2, 2, 255, 0]


def test_tiny_weights_keep_a_usable_scale() -> None:
    grid = symmetric(np.full((1, 1), 1e-45, np.float32), INT8)
    assert np.isfinite(1 / grid.scale)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite"):
        symmetric(np.asarray([[bad, 1.0]], np.float32), INT8)
    with pytest.raises(ValueError, match="infinite"):
        quantize(np.asarray([bad], np.float32), affine(0, 1, UINT8))
    with pytest.raises(ValueError, match="no range"):
        affine(0.0, bad, UINT8)


def test_products_of_seven_bit_weights_fit_into_sixteen_bits() -> None:
    assert 2 * UINT8.high * INT7.high < 2**15 <= 2 * UINT8.high * INT8.high
