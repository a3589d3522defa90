"""The solver against trying everything, with and without interactions."""

import dataclasses

import numpy as np
import pytest
from allocating import least, limits_of, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import Impossible
from whet.solve.allocation import Decision, Limits, Objective, Option, Plan, Problem
from whet.solve.program import solve

QUANTITIES: tuple[Objective, ...] = ("loss", "bytes", "ms")
objectives = st.sampled_from(QUANTITIES)


def attainable(problem: Problem, error: Impossible, limits: Limits, objective: Objective) -> None:
    """Hold the error to its word: the best value is had under the limits it names, and is beyond the limit."""
    assert error.best > error.limit
    quantity = next(q for q in QUANTITIES if q == error.quantity)
    others = limits.without(objective).without(quantity) if " with " in str(error) else Limits()
    if (limits.ms is not None or objective == "ms") and others.ms is None:
        others = dataclasses.replace(others, ms=1e300)
    assert error.best == pytest.approx(least(problem, others, quantity), rel=1e-9)


@settings(max_examples=60)
@given(st.integers(0, 10_000), objectives, st.booleans(), st.booleans())
def test_without_interactions_the_plan_is_the_optimum(
    seed: int, objective: Objective, all_three: bool, unmeasured: bool
) -> None:
    problem = random_problem(seed, 4, 4, unmeasured=unmeasured)
    limited = [q for q in QUANTITIES if all_three or q != objective]
    limits = limits_of(problem, seed, *limited)
    wanted = least(problem, limits, objective)
    if wanted is None:
        with pytest.raises(Impossible) as caught:
            solve(problem, limits, objective)
        attainable(problem, caught.value, limits, objective)
        return
    found = solve(problem, limits, objective)
    assert problem.fits(found.plan, limits)
    assert problem.value(found.plan, objective) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found.gap == 0
    assert found.linear == found.plan
    assert (found.loss, found.bytes) == (problem.loss(found.plan), problem.bytes(found.plan))
    assert found.ms == problem.ms(found.plan)


@settings(max_examples=50)
@given(st.integers(0, 10_000), objectives)
def test_with_interactions_it_is_never_worse_than_without(seed: int, objective: Objective) -> None:
    problem = random_problem(seed, 4, 4, draws=5)
    limits = limits_of(problem, seed, *(q for q in QUANTITIES if q != objective))
    wanted = least(problem, limits, objective)
    try:
        found = solve(problem, limits, objective)
    except Impossible:
        assert wanted is None or limits.loss is not None
        return
    assert wanted is not None
    assert problem.fits(found.plan, limits)
    value = problem.value(found.plan, objective)
    assert value >= wanted * (1 - 1e-9) - 1e-12
    if found.linear is not None and problem.fits(found.linear, limits):
        assert value <= problem.value(found.linear, objective)


def test_with_interactions_it_is_mostly_the_optimum() -> None:
    hits = ratio = 0.0
    for seed in range(30):
        problem = random_problem(seed, 5, 4, draws=5)
        limits = limits_of(problem, seed, "bytes", "ms")
        wanted = least(problem, limits, "loss")
        if wanted is None:
            hits += 1
            continue
        found = solve(problem, limits, "loss")
        hits += found.loss <= wanted * (1 + 1e-9) + 1e-12
        ratio = max(ratio, found.loss / max(wanted, 1e-12))
    assert hits >= 27
    assert ratio < 2


def test_interactions_change_what_is_chosen() -> None:
    """Alone, b and c are the cheapest to make small; together their errors add up, those of a and b cancel."""
    v = np.array([1.0, 1.0])

    def site(name: str, loss: float, sign: float) -> Decision:
        small = Option("small", loss, 1, 1.0, sign * v * np.sqrt(2 * loss))
        return Decision(name, (Option("keep", 0.0, 10, 1.0, 0 * v), small))

    problem = Problem((site("a", 1.1, -1.0), site("b", 1.0, 1.0), site("c", 1.0, 1.0)))
    found = solve(problem, Limits(bytes=12), "loss")
    assert found.linear is not None
    assert problem.labels(found.linear) == {"a": "keep", "b": "small", "c": "small"}
    assert problem.labels(found.plan)["a"] == "small"
    assert found.loss < 0.01 < problem.loss(found.linear)


def test_impossible_names_the_limit_and_the_best() -> None:
    problem = random_problem(1, 4, 4)
    smallest = problem.fixed_bytes + sum(min(o.bytes for o in d.options) for d in problem.decisions)
    with pytest.raises(Impossible) as caught:
        solve(problem, Limits(bytes=smallest - 1), "loss")
    assert (caught.value.quantity, caught.value.best) == ("bytes", smallest)
    assert str(caught.value) == (
        f"bytes is limited to {smallest - 1}, the least that can be had is {smallest}"
    )
    assert caught.value.exit_code == 3
    best = least(problem, Limits(bytes=smallest), "loss")
    assert best is not None
    with pytest.raises(Impossible, match=f"with bytes at most {smallest} is"):
        solve(problem, Limits(loss=best / 2, bytes=smallest), "ms")


def test_a_decision_without_measured_options_cannot_keep_milliseconds() -> None:
    problem = Problem((Decision("head", (Option("keep", 0.0, 1, None),)),))
    assert solve(problem, Limits(bytes=5), "loss").ms is None
    with pytest.raises(Impossible, match="no option of 'head' was measured"):
        solve(problem, Limits(ms=5.0), "loss")


def test_nothing_to_decide() -> None:
    found = solve(Problem((), 5, 1.0), Limits(bytes=5), "ms")
    assert (found.plan, found.loss, found.bytes, found.ms) == (Plan(()), 0.0, 5, 1.0)
    with pytest.raises(Impossible, match="bytes is limited to 4, the least that can be had is 5"):
        solve(Problem((), 5, 1.0), Limits(bytes=4), "loss")


def test_a_larger_problem_is_solved_the_same_twice() -> None:
    problem = random_problem(11, 60, 6, draws=32)
    largest = problem.bytes(Plan((0,) * 60))
    limits = Limits(bytes=largest // 3)
    found = solve(problem, limits, "loss")
    assert problem.fits(found.plan, limits)
    assert dataclasses.asdict(found) == dataclasses.asdict(solve(problem, limits, "loss"))
    assert found.linear is not None
    assert found.loss <= problem.loss(found.linear)
