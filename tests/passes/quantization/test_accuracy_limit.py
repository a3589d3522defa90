import math
from collections.abc import Mapping

import pytest

from whet.passes.quantization.accuracy_limit import within_limit
from whet.passes.quantization.placement_race import Placed

COSTS = {0: 0.3, 1: 0.01, 2: 0.02, 3: 0.1, 4: 0.0}
ALL: Placed = frozenset(COSTS)
GAINS = {0: 0.4, 1: 0.1, 2: 0.0, 3: 0.3, 4: 0.2}
"""Share of all time that each step saves."""


def error(placed: Placed) -> float:
    return math.sqrt(sum(COSTS[k] ** 2 for k in placed))


def cut(shares: Mapping[int, float]) -> Placed:
    return frozenset(k for k, gain in GAINS.items() if gain > shares.get(k, 0.0))


def test_the_worst_steps_leave_and_no_more() -> None:
    assert ALL - {0} in within_limit(ALL, ALL, 0.12, error, cut)[0]
    assert ALL - {0, 3} in within_limit(ALL, ALL, 0.05, error, cut)[0]
    assert within_limit(ALL, ALL, 0.05, error, cut)[1] == COSTS


def test_steps_are_paid_for_by_what_they_gain() -> None:
    found, _ = within_limit(ALL, ALL, 0.12, error, cut)
    assert found[0] == {1, 3, 4}  # what gains nothing is not worth any error


def test_every_placement_keeps_the_limit() -> None:
    for limit in (0.3, 0.12, 0.05, 0.015, 0.001):
        found, _ = within_limit(ALL, ALL, limit, error, cut)
        assert found
        assert all(error(placed) <= limit for placed in found)


def test_a_step_outside_the_placement_may_be_taken_in() -> None:
    found, alone = within_limit(frozenset({0}), ALL, 0.12, error, cut)
    assert found[0] == {1, 3, 4}
    assert alone == COSTS


def test_within_the_limit_nothing_is_tried() -> None:
    asked: list[Placed] = []

    def counted(placed: Placed) -> float:
        asked.append(placed)
        return error(placed)

    assert within_limit(ALL, ALL, 1.0, counted, cut) == ([ALL], {})
    assert asked == [ALL]


def test_where_nothing_helps_nothing_is_placed() -> None:
    found, _ = within_limit(ALL, ALL, -1.0, error, cut)
    assert found == [frozenset()]


def test_many_steps_are_tried_in_groups_that_share_their_error() -> None:
    many = frozenset(range(1000))
    tried: list[Placed] = []

    def counted(placed: Placed) -> float:
        tried.append(placed)
        return 0.01 * math.sqrt(len(placed))

    found, alone = within_limit(many, many, 0.1, counted, lambda _: frozenset())
    assert len(tried) < 160
    assert alone == dict.fromkeys(range(1000), pytest.approx(0.01))
    assert max(map(len, found)) == 100
