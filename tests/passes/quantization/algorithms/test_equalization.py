import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.equalization import (
    Consumer,
    Grids,
    Link,
    balanced,
    best_scales,
    predicted_error,
)


def link_of(first: np.ndarray, second: np.ndarray, x: np.ndarray) -> Link:
    """Build the link of y = relu(x first) second."""
    hidden = np.maximum(x @ first, 0)
    user = Consumer(
        labels=np.arange(first.shape[1]),
        largest=np.abs(second.T)[None],
        energy=(second.T**2)[None],
        taps=1,
        peak=np.abs(hidden).max(0),
        square=(hidden**2).mean(0),
    )
    largest = np.abs(first).max(0)
    return Link(largest, float((x**2).sum(1).mean()), [user], np.zeros(first.shape[1], bool))


def rounded(weight: np.ndarray, bits: int, *, per_channel: bool) -> np.ndarray:
    step = np.abs(weight).max(0, keepdims=True) / (2 ** (bits - 1) - 1)
    step = step if per_channel else np.full_like(step, step.max())
    return np.rint(weight / step) * step


def measured(
    first: np.ndarray, second: np.ndarray, x: np.ndarray, s: np.ndarray, grids: Grids
) -> float:
    bits, per_channel = grids.weight_bits, grids.per_channel
    hidden = np.maximum(x @ rounded(first / s, bits, per_channel=per_channel), 0)
    if grids.activation_bits:
        peak = np.abs(np.maximum(x @ first, 0) / s).max()
        step = 2 * peak / (2**grids.activation_bits - 1)
        hidden = np.rint(hidden / step) * step
    got = hidden @ rounded(second * s[:, None], bits, per_channel=per_channel)
    wanted = np.maximum(x @ first, 0) @ second
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def example(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((24, 32)) * np.exp(rng.normal(0, spread, 32))
    return first, rng.standard_normal((32, 16)), rng.standard_normal((400, 24))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activations", [0, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_prediction_is_that_of_rounding(bits: int, activations: int, per_channel: bool) -> None:
    """Within a factor of three: relu halves some of the noise, the formula leaves correlations out."""
    first, second, x = example(0, 0.7)
    grids = Grids(bits, activations, per_channel)
    s = np.exp(np.random.default_rng(1).normal(0, 0.5, 32))
    wanted = measured(first, second, x, s, grids)
    found = predicted_error(link_of(first, second, x), s, grids)
    if per_channel:
        # Noise of the first operator's own grid per channel does not depend on s and is left out of both.
        exact = measured(first, second, x, s, Grids(bits, activations, per_channel))
        alone = (
            np.maximum(x @ rounded(first / s, bits, per_channel=True), 0) * s @ second
            - np.maximum(x @ first, 0) @ second
        )
        energy = float(((np.maximum(x @ first, 0) @ second) ** 2).sum())
        wanted = exact - float((alone**2).sum()) / energy
    assert wanted / 3 < found < wanted * 3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.5, 1.5]), st.booleans())
def test_scales_lower_the_measured_error(seed: int, spread: float, per_channel: bool) -> None:
    first, second, x = example(seed, spread)
    grids = Grids(8, 8, per_channel)
    scales, before, after = best_scales(link_of(first, second, x), grids, 0.01)
    assert after <= before
    if after < before * 0.5:
        plain = measured(first, second, x, np.ones(32), grids)
        assert measured(first, second, x, scales, grids) < plain


def test_equal_channels_need_no_scales() -> None:
    first, second, x = np.eye(8), np.eye(8), np.random.default_rng(0).uniform(-1, 1, (500, 8))
    scales, before, after = best_scales(link_of(first, second, x), Grids(), 0.01)
    assert (scales == 1).all()
    assert before == after


def test_balance() -> None:
    made, reads = np.asarray([4.0, 1.0, 0.0, 9.0]), np.asarray([1.0, 4.0, 1.0, 1.0])
    frozen = np.asarray([False, False, False, True])
    found = balanced(made, reads, 0.5, frozen)
    assert found.tolist() == [2.0, 0.5, 1.0, 1.0]
    free = balanced(made[:2] * 7, reads[:2], 0.5, frozen[:2])
    assert np.isclose(np.log(free).mean(), 0)


def test_a_silent_link_has_no_error() -> None:
    first, second, x = example(0, 0.1)
    link = link_of(first, second * 0, x)
    assert predicted_error(link, np.ones(32), Grids()) == 0.0
