import math

from whet.passes.quantization.accuracy_limit import within_limit
from whet.passes.quantization.placement_race import Placed

COSTS = {0: 0.3, 1: 0.01, 2: 0.02, 3: 0.1, 4: 0.0}
ALL: Placed = frozenset(COSTS)


def error(placed: Placed) -> float:
    return math.sqrt(sum(COSTS[k] ** 2 for k in placed))


def test_the_worst_steps_leave_and_no_more() -> None:
    assert within_limit(ALL, 0.12, error)[0] == ALL - {0}
    assert within_limit(ALL, 0.05, error)[0] == ALL - {0, 3}
    assert within_limit(ALL, 0.05, error)[1] == COSTS


def test_within_the_limit_nothing_is_tried() -> None:
    asked: list[Placed] = []

    def counted(placed: Placed) -> float:
        asked.append(placed)
        return error(placed)

    assert within_limit(ALL, 1.0, counted) == (ALL, {})
    assert asked == [ALL]


def test_where_nothing_helps_nothing_is_placed() -> None:
    assert within_limit(ALL, -1.0, error)[0] == frozenset()
