"""Contenders: what each is defined by, and that none beats the solver at its own objective."""

import numpy as np
import pytest
from allocating import least, limits_of, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import Impossible, UsageError
from whet.solve.allocation import Decision, Limits, Option, Plan, Problem
from whet.solve.program import solve
from whet.solve.strategies import baq, hawq_v2, ratio_greedy, uniform

BITS = (16, 8, 4, 2)


def layers(seed: int, count: int = 5) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return layers that lose n s 4^-b at b bits, with s and n ``[layers]``."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(10, 200, count) * 8
    s = 10 ** rng.uniform(-2, 2, count)
    decisions = tuple(
        Decision(
            f"d{d}",
            tuple(
                Option(f"{b} bits", float(s[d] * n * 4.0**-b), int(n) * b // 8, float(b))
                for b in BITS
            ),
        )
        for d, n in enumerate(counts)
    )
    return Problem(decisions, fixed_bytes=100), s, counts


def share(problem: Problem, part: float) -> Limits:
    """Return a limit between the smallest and the largest plan."""
    largest, smallest = (
        problem.bytes(Plan((k,) * len(problem.decisions))) for k in (0, len(BITS) - 1)
    )
    return Limits(bytes=int(smallest + part * (largest - smallest)))


def contenders(problem: Problem, s: np.ndarray, counts: np.ndarray, limits: Limits) -> list[Plan]:
    losses = [np.array([o.loss for o in d.options]) for d in problem.decisions]
    bits = [np.array(BITS, np.float64)] * len(losses)
    norms = [loss / value for loss, value in zip(losses, s, strict=True)]
    return [
        uniform(problem, limits),
        ratio_greedy(problem, limits, norms),
        hawq_v2(problem, limits, list(s), norms),
        baq(problem, limits, list(s), [int(n) for n in counts], bits),
    ]


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_all_keep_the_limit_and_none_beats_the_solver(seed: int, part: float) -> None:
    problem, s, counts = layers(seed)
    limits = share(problem, part)
    best = solve(problem, limits, "loss").loss
    for plan in contenders(problem, s, counts, limits):
        assert problem.fits(plan, limits)
        assert problem.loss(plan) >= best * (1 - 1e-9)


def test_uniform_is_the_best_single_label() -> None:
    problem, _s, _counts = layers(0)
    assert uniform(problem, Limits()) == Plan((0,) * 5)
    assert uniform(problem, Limits(), "bytes") == Plan((3,) * 5)
    size = problem.bytes(Plan((1,) * 5))
    assert uniform(problem, Limits(bytes=size)) == Plan((1,) * 5)
    assert uniform(problem, Limits(bytes=size - 1)) == Plan((2,) * 5)
    with pytest.raises(Impossible, match="the plan of uniform comes to"):
        uniform(problem, Limits(bytes=1))


def test_uniform_leaves_alone_what_lacks_the_label() -> None:
    keep, small = Option("keep", 0.0, 9, 1.0), Option("int8", 1.0, 3, 1.0)
    problem = Problem((Decision("a", (keep, small)), Decision("b", (keep,))))
    assert uniform(problem, Limits(bytes=12)) == Plan((1, 0))


def test_greedy_by_ratio_takes_the_cheapest_error_per_byte_first() -> None:
    options = (Option("8", 0.0, 8, 1.0), Option("4", 9.0, 4, 1.0))
    wide = (Option("8", 0.0, 80, 1.0), Option("4", 0.1, 40, 1.0))
    problem = Problem((Decision("a", options), Decision("b", wide), Decision("c", options)))
    errors = [np.array([0.0, 1.0]), np.array([0.0, 20.0]), np.array([0.0, 3.0])]
    taken = [ratio_greedy(problem, Limits(bytes=size), errors) for size in (96, 95, 91, 55)]
    assert taken == [Plan((0, 0, 0)), Plan((1, 0, 0)), Plan((1, 1, 0)), Plan((1, 1, 0))]
    assert ratio_greedy(problem, Limits(), errors) == Plan((0, 0, 0))
    with pytest.raises(Impossible, match="greedy by ratio comes to 48"):
        ratio_greedy(problem, Limits(bytes=47), errors)


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_hawq_takes_the_least_omega_of_a_size(seed: int) -> None:
    problem = random_problem(seed, 4, 4)
    rng = np.random.default_rng(seed)
    limits = limits_of(problem, seed, "bytes")
    norms = [rng.uniform(0, 1, len(d.options)) for d in problem.decisions]
    traces = rng.uniform(0, 1, 4)
    priced = Problem(
        tuple(
            Decision(
                d.name,
                tuple(
                    Option(o.label, t * x, o.bytes, o.ms)
                    for o, x in zip(d.options, norm, strict=True)
                ),
            )
            for d, t, norm in zip(problem.decisions, traces, norms, strict=True)
        ),
        problem.fixed_bytes,
    )
    wanted = least(priced, limits, "loss")
    if wanted is None:
        with pytest.raises(Impossible, match="the plan of HAWQ-V2 comes to"):
            hawq_v2(problem, limits, list(traces), norms)
        return
    found = hawq_v2(problem, limits, list(traces), norms)
    assert priced.loss(found) == pytest.approx(wanted, rel=1e-9)


def test_baq_makes_losses_equal_where_bits_are_fine() -> None:
    """With bits in steps of a sixteenth, every weight loses the same but for a step of rounding and one of repair."""
    s, counts = np.array([1.0, 4.0, 100.0, 0.25]), np.array([800, 1600, 80, 4000])
    fine = np.arange(1, 12 * 16 + 1) / 16
    decisions = tuple(
        Decision(
            f"d{d}",
            tuple(Option(str(b), float(s[d] * n * 4.0**-b), round(n * b / 8), 1.0) for b in fine),
        )
        for d, n in enumerate(counts)
    )
    limits = Limits(bytes=int(counts.sum() * 5 / 8))
    problem = Problem(decisions)
    plan = baq(problem, limits, list(s), [int(n) for n in counts], [fine] * 4)
    bits = fine[list(plan.choices)]
    each = s * 4.0**-bits
    assert each.max() / each.min() < 4.0 ** (4 / 16)
    logs = np.log2(s)
    wanted = 5 + (logs - np.average(logs, weights=counts)) / 2
    np.testing.assert_allclose(bits, wanted, atol=3 / 16)
    assert problem.loss(plan) <= solve(problem, limits, "loss").loss * 1.05


def test_baq_with_nothing_sensitive_and_without_a_limit() -> None:
    problem, s, counts = layers(2)
    bits = [np.array(BITS, np.float64)] * 5
    weights = [int(n) for n in counts]
    limits = share(problem, 0.4)
    assert problem.fits(baq(problem, limits, [0.0] * 5, weights, bits), limits)
    one = [float(v) if k else 0.0 for k, v in enumerate(s)]
    assert problem.fits(baq(problem, limits, one, weights, bits), limits)
    with pytest.raises(UsageError, match="they are not limited"):
        baq(problem, Limits(), list(s), weights, bits)
    with pytest.raises(Impossible, match="the plan of BAQ comes to"):
        baq(problem, Limits(bytes=101), list(s), weights, bits)


def test_arrays_that_do_not_match_are_refused() -> None:
    problem, s, counts = layers(2)
    limits = share(problem, 0.4)
    with pytest.raises(UsageError, match="4 errors for 5 decisions"):
        ratio_greedy(problem, limits, [np.ones(4)] * 4)
    with pytest.raises(UsageError, match=r"perturbations of 'd0' have shape \[3\], expected \[4\]"):
        hawq_v2(problem, limits, list(s), [np.ones(3)] * 5)
    with pytest.raises(UsageError, match=r"traces have shape \[2\], expected \[5\]"):
        hawq_v2(problem, limits, [1.0, 2.0], [np.ones(4)] * 5)
    for wrong in ([1.0] * 4, [-1.0] * 5):
        with pytest.raises(UsageError, match="sensitivities have shape"):
            baq(problem, limits, wrong, [int(n) for n in counts], [np.ones(4)] * 5)
