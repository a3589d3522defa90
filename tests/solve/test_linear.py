"""The integer program against trying everything."""

import numpy as np
import pytest
from allocating import all_plans, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.solve import linear
from whet.solve.linear import Linear, minimize


def program(seed: int, rows: int, decisions: int = 4, *, whole: bool = False) -> Linear:
    problem = random_problem(seed, decisions, 5)
    table = problem.table
    rng = np.random.default_rng(seed + 1)
    usage = np.stack([table.bytes, table.ms, rng.uniform(0, 1, len(table.ms))])[:rows]
    if whole:
        usage = np.rint(usage * 3)
    fixed = rng.uniform(0, 1, rows)
    low = np.minimum.reduceat(usage, table.start[:-1], axis=1).sum(axis=1)
    high = np.maximum.reduceat(usage, table.start[:-1], axis=1).sum(axis=1)
    limit = fixed + low + (high - low) * rng.uniform(-0.05, 1, rows)
    if whole:
        fixed, limit = np.zeros(rows), np.rint(limit)
    return Linear(table.start, table.loss, usage, limit, fixed)


def optimum(made: Linear, seed: int, decisions: int = 4) -> float | None:
    plans = all_plans(random_problem(seed, decisions, 5))
    columns = (made.start[:-1] + np.array(p.choices) for p in plans)
    return min((made.value(c) for c in columns if made.fits(c)), default=None)


@settings(max_examples=80)
@given(st.integers(0, 10_000), st.integers(0, 3), st.booleans())
def test_the_optimum_is_exact(seed: int, rows: int, whole: bool) -> None:
    made = program(seed, rows, whole=whole)
    wanted, found = optimum(made, seed), minimize(made)
    if found is None or wanted is None:
        assert found is wanted is None
        return
    assert made.fits(found.chosen)
    assert found.value == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found.bound == found.value


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 2))
def test_a_small_core_grows_until_nothing_better_is_outside(seed: int, rows: int) -> None:
    made = program(seed, rows, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_CORE", 1)
        found = minimize(made)
    wanted = optimum(made, seed, 5)
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert found.value == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_costs_of_very_different_size_are_told_apart() -> None:
    """A gap of 1e-6, as HiGHS allows by itself, would take either option of the second decision."""
    start = np.array([0, 2, 4])
    cost = np.array([0.0, 1000.0, 0.0, 1e-7])
    usage = np.array([[5.0, 1.0, 2.0, 1.0]])
    made = Linear(start, cost, usage, np.array([7.0]), np.zeros(1))
    found = minimize(made)
    assert found is not None
    assert found.chosen.tolist() == [0, 2]
    tight = minimize(Linear(start, cost, usage, np.array([6.0]), np.zeros(1)))
    assert tight is not None
    assert tight.chosen.tolist() == [0, 3]


def test_a_limit_is_kept_to_the_last_byte() -> None:
    """The better plan is too large by one byte in two thousand million."""
    start = np.array([0, 2, 4])
    usage = np.array([[1_000_000_001.0, 0.0, 1_000_000_000.0, 0.0]])
    cost = np.array([0.0, 1.0, 0.0, 2.0])
    tight = minimize(Linear(start, cost, usage, np.array([2_000_000_000.0]), np.zeros(1)))
    assert tight is not None
    assert tight.chosen.tolist() == [1, 2]
    loose = minimize(Linear(start, cost, usage, np.array([2_000_000_001.0]), np.zeros(1)))
    assert loose is not None
    assert loose.chosen.tolist() == [0, 2]


def test_no_solution_and_nothing_to_decide() -> None:
    start, one = np.array([0, 1]), np.ones(1)
    assert minimize(Linear(start, one, one[None], np.array([0.5]), np.zeros(1))) is None
    empty = np.zeros(0)
    nothing = Linear(np.array([0]), empty, empty[None], one, np.zeros(1))
    found = minimize(nothing)
    assert found is not None
    assert (len(found.chosen), found.value) == (0, 0.0)
    assert minimize(Linear(np.array([0]), empty, empty[None], np.zeros(1), one)) is None


def test_a_search_cut_short_says_how_far_the_bound_is() -> None:
    rng = np.random.default_rng(0)
    decisions, options = 120, 6
    start = np.arange(decisions + 1) * options
    usage = rng.integers(1000, 9999, (3, decisions * options)).astype(np.float64)
    cost = rng.integers(1000, 9999, decisions * options).astype(np.float64)
    made = Linear(start, cost, usage, np.full(3, 4500.0 * decisions), np.zeros(3))
    found = minimize(made, seconds=0.2)
    assert found is not None
    assert made.fits(found.chosen)
    assert found.bound <= found.value
    assert found.value - found.bound < 0.05 * found.value
