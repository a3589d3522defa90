"""Local search against its own claim: no change of one or two decisions improves what it returns."""

import itertools

from allocating import all_plans, limits_of, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.solve import exchange
from whet.solve.allocation import Decision, Limits, Objective, Option, Plan, Problem
from whet.solve.exchange import improve

objectives = st.sampled_from(("loss", "bytes", "ms"))


def neighbours(problem: Problem, plan: Plan) -> set[Plan]:
    """Return every plan that differs in one or two decisions."""
    found: set[Plan] = set()
    for pair in itertools.combinations_with_replacement(range(len(plan.choices)), 2):
        sizes = [range(len(problem.decisions[d].options)) for d in pair]
        for taken in itertools.product(*sizes):
            choices = list(plan.choices)
            for d, k in zip(pair, taken, strict=True):
                choices[d] = k
            found.add(Plan(tuple(choices)))
    return found - {plan}


@settings(max_examples=60)
@given(st.integers(0, 10_000), objectives)
def test_no_change_of_one_or_two_decisions_improves(seed: int, objective: Objective) -> None:
    problem = random_problem(seed, 5, 4, draws=6)
    others: list[Objective] = [q for q in ("loss", "bytes", "ms") if q != objective]
    limits = limits_of(problem, seed, *others)
    start = next((p for p in all_plans(problem) if problem.fits(p, limits)), None)
    if start is None:
        return
    found = improve(problem, limits, objective, start)
    value = problem.value(found, objective)
    assert problem.fits(found, limits)
    assert value <= problem.value(start, objective)
    for other in neighbours(problem, found):
        if problem.fits(other, limits):
            assert problem.value(other, objective) >= value - 1e-8 * abs(value)


def test_an_exchange_finds_what_single_changes_cannot() -> None:
    """Both decisions have to move at once: room for one comes from the other."""
    made = tuple(
        Decision(name, (Option("large", 0.0, 10, 1.0), Option("small", loss, 1, 1.0)))
        for name, loss in (("a", 1.0), ("b", 5.0))
    )
    problem = Problem(made)
    found = improve(problem, Limits(bytes=11), "loss", Plan((0, 1)))
    assert found == Plan((1, 0))


def test_errors_of_opposite_sign_are_brought_together() -> None:
    problem = random_problem(5, 8, 4, draws=3)
    start = Plan(tuple(len(d.options) - 1 for d in problem.decisions))
    limits = Limits(bytes=problem.bytes(start) * 2)
    found = improve(problem, limits, "loss", start)
    assert problem.loss(found) < problem.loss(start)


def test_of_plans_equal_in_size_the_better_is_taken() -> None:
    problem = Problem((Decision("a", (Option("x", 2.0, 5, 1.0), Option("y", 1.0, 5, 1.0))),))
    assert improve(problem, Limits(), "bytes", Plan((0,))) == Plan((1,))


def test_few_partners_still_keep_the_limits_and_never_lose() -> None:
    problem = random_problem(9, 30, 5, draws=8)
    start = Plan(tuple(len(d.options) - 1 for d in problem.decisions))
    limits = Limits(bytes=int(problem.bytes(start) * 1.7))
    full = improve(problem, limits, "loss", start)
    kept = exchange._PARTNERS
    try:
        exchange._PARTNERS = 3
        few = improve(problem, limits, "loss", start)
    finally:
        exchange._PARTNERS = kept
    assert problem.fits(few, limits)
    assert problem.loss(few) <= problem.loss(start)
    assert problem.loss(full) <= problem.loss(start)


def test_it_stops_at_what_is_enough_and_repeats_itself() -> None:
    problem = random_problem(5, 8, 4, draws=3)
    start = Plan(tuple(len(d.options) - 1 for d in problem.decisions))
    assert improve(problem, Limits(), "loss", start, enough=1e9) == start
    enough = problem.loss(start) / 2
    found = improve(problem, Limits(), "loss", start, enough=enough)
    assert problem.loss(found) <= enough
    assert found == improve(problem, Limits(), "loss", start, enough=enough)
