import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.analysis.range_rules import entropy_range, grid_error, mse_range, percentile_range
from whet.analysis.statistics.histograms import count

SHAPES = {
    "normal": lambda rng: rng.standard_normal(4000),
    "rectified": lambda rng: np.maximum(rng.standard_normal(4000), 0),
    "heavy tails": lambda rng: rng.standard_t(3, 4000),
    "even": lambda rng: rng.uniform(-1, 3, 4000),
    "shifted": lambda rng: rng.laplace(size=4000) + 1,
    "below zero": lambda rng: -np.exp(rng.standard_normal(4000)),
}


def error_of(x: np.ndarray, low: float, high: float, steps: int) -> float:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / steps
    zero = np.clip(np.rint(-low / scale), 0, steps)
    rounded = (np.clip(np.rint(x / scale) + zero, 0, steps) - zero) * scale
    return float(np.mean((rounded - x) ** 2))


def best_of_all(x: np.ndarray, steps: int, symmetric: bool) -> float:
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    shares = np.linspace(0.04, 1, 25)
    if symmetric:
        reach = max(-low, high)
        return min(error_of(x, -reach * t, reach * t, steps) for t in np.linspace(0.01, 1, 200))
    pairs = [(low * s, high * t) for s in shares for t in shares]
    return min(error_of(x, a, b, steps) for a, b in pairs if b > a)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (4, False), (8, True), (4, True)])
def test_no_range_on_a_grid_of_ranges_is_better(shape: str, bits: int, symmetric: bool) -> None:
    x = SHAPES[shape](np.random.default_rng(1)).astype(np.float32)
    steps = 2**bits - 1 - symmetric
    low, high = mse_range(count(x), steps, symmetric=symmetric)
    assert error_of(x, low, high, steps) <= 1.02 * best_of_all(x, steps, symmetric)
    assert symmetric == (low == -high) or low == high == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.floats(0.2, 1.0))
def test_the_error_is_that_of_the_numbers(seed: int, bits: int, share: float) -> None:
    x = np.random.default_rng(seed).standard_normal(3000).astype(np.float32)
    low, high = share * x.min(), share * x.max()
    found = grid_error(count(x), np.asarray([low]), np.asarray([high]), 2**bits - 1)[0]
    assert found == pytest.approx(error_of(x, low, high, 2**bits - 1), rel=0.1)


def test_an_outlier_is_clipped_by_all_rules_but_the_extremes() -> None:
    x = np.append(np.random.default_rng(0).standard_normal(50_000), 60).astype(np.float32)
    counts = count(x)
    assert mse_range(counts, 15)[1] < 30
    assert entropy_range(counts, 255)[1] < 30
    assert percentile_range(counts, 99.9)[1] < 5
    assert percentile_range(counts, 100.0) == (x.min(), x.max())


def test_entropy_keeps_what_is_spread_evenly() -> None:
    x = np.random.default_rng(0).uniform(0, 2, 20_000).astype(np.float32)
    low, high = entropy_range(count(x), 255)
    assert low == x.min()
    assert high > 1.9


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_constants(value: float) -> None:
    counts = count(np.full(10, value, np.float32))
    low, high = mse_range(counts, 255)
    assert low <= 0 <= high
    if value:
        assert error_of(np.full(1, value), low, high, 255) < 1e-6 * value**2
    assert entropy_range(counts, 255) == (value, value)


def test_many_exact_zeros_cost_nothing_and_do_not_count() -> None:
    x = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    padded = np.concatenate([x, np.zeros(40_000, np.float32)])
    assert entropy_range(count(padded), 255) == entropy_range(count(x), 255)
    np.testing.assert_allclose(mse_range(count(padded), 255), mse_range(count(x), 255))
