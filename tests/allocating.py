"""Allocation problems to test solvers with, and the slow way to solve them."""

import itertools
from collections.abc import Iterator

import numpy as np

from whet.solve.allocation import Decision, Limits, Objective, Option, Plan, Problem


def random_problem(
    seed: int, decisions: int = 4, options: int = 4, draws: int = 0, *, unmeasured: bool = False
) -> Problem:
    """Return a problem whose options lose more the smaller they are; directions agree with prices."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(draws)
    made: list[Decision] = []
    for d in range(decisions):
        count = int(rng.integers(1, options + 1))
        size, sensitivity = int(rng.integers(1, 1000)), 10 ** rng.uniform(-2, 2)
        choices: list[Option] = []
        for k in range(count):
            loss = sensitivity * 4.0 ** -(count - k) * rng.uniform(0.5, 2) * (k > 0)
            v = rng.standard_normal(draws) + rng.standard_normal() * common
            if draws:
                v *= np.sqrt(2 * loss / np.mean(v**2))
            hidden = unmeasured and k > 0 and rng.random() < 0.3
            ms = None if hidden else float(rng.uniform(0.1, 2))
            choices.append(Option(f"o{k}", loss, size * (count - k), ms, v if draws else None))
        made.append(Decision(f"d{d}", tuple(choices)))
    return Problem(tuple(made), fixed_bytes=17, fixed_ms=0.25, fixed_loss=0.125)


def all_plans(problem: Problem) -> Iterator[Plan]:
    """Yield every plan there is."""
    for choices in itertools.product(*(range(len(d.options)) for d in problem.decisions)):
        yield Plan(choices)


def least(problem: Problem, limits: Limits, objective: Objective) -> float | None:
    """Return the optimum by trying everything; None if nothing keeps the limits."""
    fitting = (p for p in all_plans(problem) if problem.fits(p, limits))
    values = (problem.value(p, objective) for p in fitting)
    return min((v for v in values if np.isfinite(v)), default=None)


def limits_of(problem: Problem, seed: int, *quantities: Objective) -> Limits:
    """Return limits drawn between the least and the most of each quantity, sometimes just below the least."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, float] = {}
    for quantity in quantities:
        values = [problem.value(p, quantity) for p in all_plans(problem)]
        finite = [v for v in values if np.isfinite(v)]
        low, high = min(finite), max(finite)
        drawn[quantity] = low + (high - low) * rng.uniform(-0.05, 1)
        if rng.random() < 0.3:
            drawn[quantity] = float(rng.choice(finite))
    size = drawn.get("bytes")
    return Limits(drawn.get("loss"), None if size is None else int(size), drawn.get("ms"))
