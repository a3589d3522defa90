"""Keep the error of a whole model below a limit: what costs the most for what it gains goes back to float.

Every step is put on integers alone, and the model's outputs on held-out data say what it costs. If errors of steps are
independent, their squares add up, so that error is paid for like time: with t the milliseconds of a step and e its own
error, a placement minimizes Σ t + λ Σ e², which is a minimum cut as before. The smallest λ that keeps the limit is
found by bisection, each time with a complete model. Errors are not quite independent, hence a second way: steps leave
the given placement from the worst on, as few as the limit takes.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from whet.passes.quantization.placement_race import Placed

__all__ = ["Cut", "within_limit"]

Cut = Callable[[Mapping[int, float]], Placed]
"""From what steps cost beside their time, as shares of the time of all, to the cheapest placement."""
_MOST = 128
"""Models that are run to find out what steps cost."""
_HALVINGS = 24
"""λ goes from 2^-12 to 2^12 times the price at which a step that uses up the limit costs the time of all."""


def within_limit(
    placed: Placed, able: Placed, limit: float, error: Callable[[Placed], float], cut: Cut
) -> tuple[list[Placed], Mapping[int, float]]:
    """Return placements whose ``error`` is at most ``limit``, and what each step of ``able`` costs alone.

    ``error`` is ||new - old|| / ||old|| of the model's outputs. Where ``placed`` itself is within the limit, it is the
    only one, and nothing is tried alone.
    """
    known: dict[Placed, float] = {frozenset(): 0.0}

    def keeps(candidate: Placed) -> bool:
        if candidate not in known:
            known[candidate] = error(candidate)
        return known[candidate] <= limit

    if keeps(placed):
        return [placed], {}
    alone = _alone(sorted(able | placed), error)
    found = [_traded(alone, limit, keeps, cut), _without_worst(placed, alone, keeps)]
    return list(dict.fromkeys(found)), alone


def _alone(steps: Sequence[int], error: Callable[[Placed], float]) -> dict[int, float]:
    """Return what each step costs; of many, neighbours are tried together and share their squared error."""
    size = -(-len(steps) // _MOST)
    found: dict[int, float] = {}
    for start in range(0, len(steps), size):
        group = steps[start : start + size]
        found.update(dict.fromkeys(group, error(frozenset(group)) / math.sqrt(len(group))))
    return found


def _traded(
    alone: Mapping[int, float], limit: float, keeps: Callable[[Placed], bool], cut: Cut
) -> Placed:
    """Return the cheapest placement at the smallest price of error that keeps the limit."""

    def at(step: int) -> Placed:
        price = 2.0 ** (step - _HALVINGS // 2)
        return cut({k: min(1.0, price * (e / limit) ** 2) for k, e in alone.items()})

    if limit <= 0:
        return frozenset()
    low, high = 0, _HALVINGS + 1
    while low < high:
        middle = (low + high) // 2
        if keeps(at(middle)):
            high = middle
        else:
            low = middle + 1
    return at(low) if low <= _HALVINGS else frozenset()


def _without_worst(
    placed: Placed, alone: Mapping[int, float], keeps: Callable[[Placed], bool]
) -> Placed:
    worst = sorted(placed, key=lambda k: (-alone[k], k))
    fewest, most = 1, len(worst)
    while fewest < most:
        middle = (fewest + most) // 2
        if keeps(placed - frozenset(worst[:middle])):
            most = middle
        else:
            fewest = middle + 1
    return placed - frozenset(worst[:most])
