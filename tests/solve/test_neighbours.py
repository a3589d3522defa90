import itertools

import numpy as np
import pytest

from whet.solve.allocation import Decision, Limits, Option, Plan, Problem
from whet.solve.neighbours import neighbours

RNG = np.random.default_rng(0)


def problem() -> Problem:
    return Problem(
        tuple(
            Decision(
                f"d{d}",
                tuple(
                    Option(f"o{k}", float(RNG.random()), 10 * k, 4.0 - k, RNG.standard_normal(6))
                    for k in range(3)
                ),
            )
            for d in range(4)
        )
    )


@pytest.mark.parametrize("limits", [Limits(), Limits(bytes=40), Limits(bytes=50, ms=12.0)])
def test_they_are_the_cheapest_of_all_with_one_or_two_changes(limits: Limits) -> None:
    given, start = problem(), Plan((1, 1, 1, 1))
    found = neighbours(given, start, limits, 20)
    near = [
        Plan(choices)
        for choices in itertools.product(range(3), repeat=4)
        if 0 < sum(k != 1 for k in choices) <= 2 and given.fits(Plan(choices), limits)
    ]
    wanted = sorted(near, key=given.loss)[:20]
    assert [given.loss(p) for p in found] == pytest.approx([given.loss(p) for p in wanted])
    assert set(found) == set(wanted)


def test_without_directions_prices_add_up() -> None:
    options = (Option("a", 3.0, 1), Option("b", 1.0, 2))
    given = Problem((Decision("x", options), Decision("y", options)))
    assert neighbours(given, Plan((0, 0)), Limits(), 1) == [Plan((1, 1))]
