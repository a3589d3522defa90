"""What options, plans and problems cost."""

import dataclasses

import numpy as np
import pytest
from allocating import all_plans, random_problem
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.solve.allocation import Decision, Limits, Option, Plan, Problem, together


@given(st.integers(0, 10_000))
def test_loss_is_the_mean_square_of_summed_directions(seed: int) -> None:
    problem = random_problem(seed, 3, 3, draws=7)
    for plan in all_plans(problem):
        taken = [d.options[k] for d, k in zip(problem.decisions, plan.choices, strict=True)]
        vectors = [o.directions for o in taken if o.directions is not None]
        wanted = 0.5 * np.mean(np.square(np.sum(vectors, axis=0)))
        assert problem.loss(plan) == pytest.approx(problem.fixed_loss + wanted, rel=1e-9, abs=1e-12)


def test_a_corrected_price_keeps_its_interactions() -> None:
    v, w = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    one = Decision("a", (Option("x", 100.0, 1, 1.0, v),))
    other = Decision("b", (Option("x", 10.0, 2, None, w),))
    problem = Problem((one, other), fixed_bytes=5)
    plan = Plan((0, 0))
    assert problem.loss(plan) == pytest.approx(110 + float(v @ w) / 2)
    assert problem.bytes(plan) == 8
    assert problem.ms(plan) is None
    assert problem.value(plan, "ms") == np.inf
    assert not problem.fits(plan, Limits(ms=1e9))
    assert problem.fits(plan, Limits(loss=111.0, bytes=8))
    assert not problem.fits(plan, Limits(bytes=7))
    assert not problem.fits(plan, Limits(loss=110.0))


def test_an_option_without_directions_interacts_with_nothing() -> None:
    v = np.array([1.0, 2.0])
    decisions = (
        Decision("a", (Option("x", 1.0, 1, 1.0, v),)),
        Decision("b", (Option("x", 2.0, 2, 1.0),)),
    )
    problem = Problem(decisions)
    assert problem.loss(Plan((0, 0))) == 3.0
    assert problem.table.directions is not None
    np.testing.assert_array_equal(problem.table.directions[1], 0.0)


def test_directions_are_a_copy_that_cannot_be_written() -> None:
    v = np.array([1.0, 2.0])
    option = Option("x", 1.0, 1, 1.0, v)
    v[0] = 9.0
    assert option.directions is not None
    assert option.directions[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        option.directions[0] = 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        option.loss = 2.0  # type: ignore[misc]


def test_plans_by_labels_and_by_rows() -> None:
    problem = random_problem(3, 4, 4)
    for plan in all_plans(problem):
        assert problem.plan(list(problem.labels(plan).values())) == plan
        rows = problem.table.rows(plan)
        assert problem.table.plan(rows) == plan
        assert problem.bytes(plan) == problem.fixed_bytes + problem.table.bytes[rows].sum()
    with pytest.raises(UsageError, match="decision 'd0' has no option 'nothing', it has o0"):
        problem.plan(["nothing", "o0", "o0", "o0"])
    with pytest.raises(UsageError, match="2 choices for 4 decisions"):
        problem.loss(Plan((0, 0)))


@given(st.integers(0, 10_000))
def test_sites_that_agree_cost_what_they_cost_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = tuple(
        Decision(
            name,
            tuple(
                Option(label, rng.random(), int(rng.integers(9)), 1.0, rng.standard_normal(5))
                for label in ("keep", "int8", "int4")
            ),
        )
        for name in ("a", "b", "c")
    )
    apart, joined = Problem(sites), Problem((sites[0], together("b and c", sites[1:])))
    for first in range(3):
        for second in range(3):
            one, other = Plan((first, second, second)), Plan((first, second))
            assert apart.loss(one) == pytest.approx(joined.loss(other))
            assert apart.bytes(one) == joined.bytes(other)
            assert apart.ms(one) == joined.ms(other)


def test_what_is_shared_counts_once_and_only_common_labels_stay() -> None:
    one = Decision("a", (Option("keep", 0.0, 9, 1.0), Option("int8", 1.0, 3, 1.0)))
    other = Decision("b", (Option("int8", 2.0, 3, None), Option("int4", 4.0, 2, 1.0)))
    tied = together("tied", (one, other), shared=True)
    (option,) = tied.options
    assert (option.label, option.loss, option.bytes, option.ms) == ("int8", 3.0, 3, None)
    alien = Decision("c", (Option("rank 8", 0.0, 9, 1.0),))
    with pytest.raises(UsageError, match="'odd': no option is common to a, c"):
        together("odd", (one, alien))


def test_nonsense_is_refused_with_its_place() -> None:
    fine = Option("x", 1.0, 1, 1.0)
    with pytest.raises(UsageError, match="option 'x' has loss nan"):
        Option("x", float("nan"), 1, 1.0)
    with pytest.raises(UsageError, match="option 'x' has -1 bytes"):
        Option("x", 1.0, -1, 1.0)
    with pytest.raises(UsageError, match="option 'x' takes -1 ms"):
        Option("x", 1.0, 1, -1)
    with pytest.raises(UsageError, match=r"directions of shape \[1, 2\]"):
        Option("x", 1.0, 1, 1.0, np.ones((1, 2)))
    with pytest.raises(UsageError, match="decision 'a' has no option"):
        Decision("a", ())
    with pytest.raises(UsageError, match="decision 'a' has two options 'x'"):
        Decision("a", (fine, fine))
    with pytest.raises(UsageError, match="two decisions are named 'a'"):
        Problem((Decision("a", (fine,)), Decision("a", (fine,))))
    long, short = (Option(f"{n}", 1.0, 1, 1.0, np.ones(n)) for n in (3, 2))
    with pytest.raises(UsageError, match="2 and 3 draws"):
        Problem((Decision("a", (long, short)),))
