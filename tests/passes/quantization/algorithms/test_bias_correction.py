import numpy as np
import pytest

from whet.passes.quantization.algorithms.approximation import Layer, output_error
from whet.passes.quantization.algorithms.bias_correction import centered, corrected_bias
from whet.passes.quantization.algorithms.rounding import round_to_nearest

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((50, 6)) + 2
WEIGHTS = RNG.standard_normal((4, 6)).astype(np.float32)
LAYER = Layer(WEIGHTS, INPUTS.T @ INPUTS / 50)
MEAN = INPUTS.mean(0)


@pytest.mark.parametrize("bias", [None, np.array([1.0, -1.0, 0.5, 0.0], np.float32)])
def test_the_mean_of_the_outputs_is_what_it_was(bias):
    stored = round_to_nearest(LAYER, 3)
    before = INPUTS @ WEIGHTS.T + (0 if bias is None else bias)
    after = INPUTS @ stored.values().T + corrected_bias(bias, LAYER, stored, MEAN)
    assert np.abs(before.mean(0) - INPUTS @ stored.values().T).max() > 0.01
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=1e-5)


def test_what_is_left_is_the_error_on_the_covariance():
    stored = round_to_nearest(LAYER, 3)
    lost = INPUTS @ (stored.values() - WEIGHTS).T
    remaining = ((lost + corrected_bias(None, LAYER, stored, MEAN)) ** 2).mean(0).sum()
    gram = centered(LAYER, MEAN).gram
    delta = (stored.values() - WEIGHTS).astype(np.float64)
    np.testing.assert_allclose(np.vdot(delta @ gram, delta), remaining, rtol=1e-4)
    assert output_error(WEIGHTS, stored.values(), gram) < 1


def test_what_does_not_fit():
    stored = round_to_nearest(LAYER, 3)
    with pytest.raises(ValueError, match=r"mean of shape \[5\] for a layer with 6 inputs"):
        corrected_bias(None, LAYER, stored, MEAN[:5])
    with pytest.raises(ValueError, match="not a number"):
        corrected_bias(None, LAYER, stored, MEAN * np.nan)
    with pytest.raises(ValueError, match="no Gram matrix"):
        centered(Layer(WEIGHTS), MEAN)
