"""Corrections learn what is wrong with prices, and nothing more."""

import itertools

import numpy as np
import pytest
from allocating import all_plans, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.solve.correction import correct, corrected, fit_monotone, spearman

losses = st.lists(st.tuples(st.floats(0, 10), st.floats(-1, 10)), min_size=1, max_size=12)


@given(losses)
def test_the_map_never_decreases_and_is_the_nearest(pairs: list[tuple[float, float]]) -> None:
    predicted, measured = zip(*pairs, strict=True)
    found = fit_monotone(predicted, measured)
    grid = [found(x) for x in np.linspace(0, 20, 50)]
    assert found(0.0) == 0.0
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(grid))
    fitted = np.array([found(x) for x in predicted])
    used = np.array(predicted) > 0
    wanted = np.maximum(measured, 0)[used]
    error = np.square(fitted[used] - wanted).sum()
    for slope in np.linspace(0, 2, 9):
        assert error <= np.square(slope * np.array(predicted)[used] - wanted).sum() + 1e-9
    for level in np.linspace(0, 10, 9):
        assert error <= np.square(level - wanted).sum() + 1e-9


@given(losses, st.floats(0, 20))
def test_the_inverse_is_the_largest_prediction_that_is_allowed(
    pairs: list[tuple[float, float]], limit: float
) -> None:
    found = fit_monotone(*zip(*pairs, strict=True))
    allowed = found.inverse(limit)
    if np.isfinite(allowed):
        assert found(allowed) <= limit + 1e-9 * max(1.0, limit)
        assert found(allowed * 1.01 + 1e-6) >= limit - 1e-6 - 0.02 * max(1.0, limit)


def test_a_map_of_measurements_and_what_lies_beyond() -> None:
    found = fit_monotone([1.0, 2.0, 3.0], [2.0, 6.0, 4.0])
    assert found(2.0) == found(3.0) == 5.0
    assert found(0.5) == 1.0
    assert found(6.0) == 10.0
    assert found.inverse(10.0) == 6.0
    assert found.inverse(5.0) == 3.0
    assert found.inverse(3.5) == 1.5


@settings(max_examples=50)
@given(st.integers(0, 1000), st.booleans())
def test_factors_that_made_the_measurements_are_found(seed: int, interacting: bool) -> None:
    problem = random_problem(seed, 4, 3, draws=5 if interacting else 0)
    truth = np.random.default_rng(seed).uniform(0.7, 1.4, 4)
    plans = list(all_plans(problem))
    actual = corrected(problem, truth)
    measured = [actual.loss(plan) for plan in plans]
    before = [problem.loss(plan) for plan in plans]
    factors = correct(problem, plans, measured, ridge=1e-6)
    after = [corrected(problem, factors).loss(plan) for plan in plans]

    def error(found: list[float]) -> float:
        return float(np.square(np.subtract(found, measured)).sum())

    assert error(after) <= error(before) * (0.3 if interacting else 1e-3) + 1e-20


def test_with_nothing_to_learn_from_prices_stay() -> None:
    problem = random_problem(4, 5, 3)
    plans = list(all_plans(problem))[-1:]
    right = [problem.loss(plan) for plan in plans]
    np.testing.assert_allclose(correct(problem, plans, right), 1.0)
    kept = correct(problem, plans, [2 * right[0]], ridge=1e9)
    np.testing.assert_allclose(kept, 1.0, atol=1e-6)
    moved = correct(problem, plans, [2 * right[0]], ridge=1e-3)
    taken = problem.table.loss[problem.table.rows(plans[0])]
    assert (moved >= 1 - 1e-9).all()
    assert (moved[taken > taken.max() / 2] > 1.1).all()
    np.testing.assert_allclose(moved[taken == 0], 1.0)


def test_factors_are_not_negative() -> None:
    problem = random_problem(4, 5, 3)
    plans = list(all_plans(problem))
    assert (correct(problem, plans, [0.0] * len(plans), ridge=1e-9) >= 0).all()
    scaled = corrected(problem, [0.0] * 5)
    assert scaled.loss(plans[-1]) == scaled.fixed_loss


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 1, 1], [3, 2, 1]) == 0.0


def test_what_cannot_be_fitted_is_refused() -> None:
    problem = random_problem(4, 5, 3)
    plan = next(all_plans(problem))
    with pytest.raises(UsageError, match="2 predicted and 1 measured losses"):
        fit_monotone([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="not finite"):
        fit_monotone([1.0], [float("nan")])
    with pytest.raises(UsageError, match="1 pairs, expected 2"):
        spearman([1.0], [1.0])
    with pytest.raises(UsageError, match="ridge is 0"):
        correct(problem, [plan], [1.0], ridge=0)
