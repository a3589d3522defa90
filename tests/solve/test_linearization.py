"""The program that a problem becomes."""

import pytest
from allocating import all_plans, random_problem
from hypothesis import given
from hypothesis import strategies as st

from whet.solve.allocation import Limits
from whet.solve.linearization import linearize


@given(st.integers(0, 10_000))
def test_it_is_exact_where_one_decision_changes(seed: int) -> None:
    problem = random_problem(seed, 4, 3, draws=5)
    at = next(all_plans(problem))
    limits = Limits(loss=1.0, bytes=9)
    made = linearize(problem, limits, "loss", at)
    assert made.limited == ("loss", "bytes")
    for plan in all_plans(problem):
        if sum(a != b for a, b in zip(plan.choices, at.choices, strict=True)) > 1:
            continue
        rows = problem.table.rows(plan)
        loss = made.program.cost[rows].sum() + made.program.fixed[0]
        assert loss == pytest.approx(problem.loss(plan), rel=1e-9, abs=1e-9)
        size = made.program.usage[1][rows].sum() + made.program.fixed[1]
        assert size == problem.bytes(plan)
