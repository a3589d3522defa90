"""Keep the error of a whole model below a limit: the steps that cost the most go back to float.

Every step is put on integers alone, and the model's outputs on held-out data say what it costs. Steps leave from the
worst on, as few as the limit takes; how many is found by bisection, each time with a complete model.
"""

from collections.abc import Callable, Mapping

from whet.passes.quantization.placement_race import Placed

__all__ = ["within_limit"]


def within_limit(
    placed: Placed, limit: float, error: Callable[[Placed], float]
) -> tuple[Placed, Mapping[int, float]]:
    """Return what stays of a placement so that ``error`` is at most ``limit``, and what each step costs alone.

    ``error`` is ||new - old|| / ||old|| of the model's outputs. Where a whole placement is within the limit, nothing is
    tried alone.
    """
    if not placed or error(placed) <= limit:
        return placed, {}
    alone = {k: error(frozenset({k})) for k in sorted(placed)}
    worst = sorted(placed, key=lambda k: (-alone[k], k))
    fewest, most = 1, len(worst)
    while fewest < most:
        middle = (fewest + most) // 2
        if error(placed - frozenset(worst[:middle])) <= limit:
            most = middle
        else:
            fewest = middle + 1
    return placed - frozenset(worst[:most]), alone
