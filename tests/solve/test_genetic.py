"""The genetic algorithm where losses do not add up."""

import numpy as np
import pytest
from allocating import all_plans, limits_of, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import Impossible, UsageError
from whet.solve.allocation import Limits, Plan, Problem
from whet.solve.genetic import Measured, genetic
from whet.solve.program import solve


def rough(problem: Problem, seed: int) -> dict[Plan, float]:
    """Return losses that have nothing to do with the predicted ones but for a half."""
    rng = np.random.default_rng(seed)
    return {p: problem.loss(p) + 2 * rng.uniform() for p in all_plans(problem)}


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_with_enough_measurements_it_finds_the_optimum(seed: int) -> None:
    problem = random_problem(seed, 4, 3)
    limits = limits_of(problem, seed, "bytes", "ms")
    table = rough(problem, seed)
    fitting = [loss for plan, loss in table.items() if problem.fits(plan, limits)]
    if not fitting:
        with pytest.raises(Impossible):
            genetic(problem, limits, table.__getitem__)
        return
    found = genetic(problem, limits, table.__getitem__, evaluations=500)
    assert problem.fits(found.plan, limits)
    assert found.loss == table[found.plan]
    assert found.loss <= np.quantile(fitting, 0.1)
    assert found.evaluations <= len(fitting)


def test_it_is_seeded_anytime_and_never_measures_twice() -> None:
    problem = random_problem(3, 12, 4)
    limits = Limits(bytes=problem.bytes(Plan((0,) * 12)) // 2)
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((12, 12, 4, 4)) ** 2
    calls: list[Plan] = []

    def measure(plan: Plan) -> float:
        calls.append(plan)
        k = np.array(plan.choices)
        rows = np.arange(12)
        return float(pairs[rows[:, None], rows[None], k[:, None], k[None]].sum())

    heard: list[Measured] = []
    found = genetic(problem, limits, measure, evaluations=300, better=heard.append)
    assert len(calls) == len(set(calls)) == found.evaluations <= 300
    assert all(problem.fits(plan, limits) for plan in calls)
    assert [m.loss for m in heard] == sorted((m.loss for m in heard), reverse=True)
    assert heard[-1].plan == found.plan
    assert heard[0].plan == solve(problem, limits).plan
    again = genetic(problem, limits, measure, evaluations=300)
    assert again == found
    assert found.loss == min(measure(plan) for plan in set(calls))


def test_it_never_ends_worse_than_where_it_starts() -> None:
    problem = random_problem(5, 6, 4)
    table = rough(problem, 1)
    best = min(table, key=table.__getitem__)
    found = genetic(problem, Limits(), table.__getitem__, evaluations=5, start=[best])
    assert found.plan == best
    one = genetic(problem, Limits(), table.__getitem__, evaluations=1)
    assert one == Measured(solve(problem, Limits()).plan, one.loss, 1)


def test_a_loss_that_is_no_number_loses() -> None:
    problem = random_problem(5, 3, 3)
    good = list(all_plans(problem))[-1]
    found = genetic(
        problem, Limits(), lambda plan: 1.0 if plan == good else float("nan"), start=[good]
    )
    assert found.plan == good


def test_nonsense_is_refused() -> None:
    problem = random_problem(5, 3, 3)
    with pytest.raises(UsageError, match="0 evaluations of 20 plans"):
        genetic(problem, Limits(), lambda _plan: 0.0, evaluations=0)
