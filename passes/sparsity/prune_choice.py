"""Choose groups: the least score for what it saves, in steps that leave counts the runtime likes."""

import dataclasses
from collections.abc import Mapping, Sequence

from whet.analysis.coupling import Coupled, Family, Group, Kind
from whet.passes.sparsity.prune_weights import Cost

__all__ = ["Step", "choose", "order_steps"]

_WHOLE = (Kind.HEADS,)
"""Kinds that go one by one: a head is wide enough."""
_GAIN = 1e-3
"""A smaller share is no gain."""
_KERNELS = 8
"""At most about so many sizes of a layer are measured."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Groups of one family that go together, after those of the family's earlier steps."""

    family: Family
    groups: tuple[Group, ...]
    price: float
    """Score lost per unit saved."""


def order_steps(
    coupled: Coupled,
    families: Sequence[Family],
    scores: Mapping[int, float],
    cost: Cost,
    multiple: int,
    most: float,
) -> list[Step]:
    """Return steps in the order in which they should be made, those of one family in order of their score."""
    queues = [_steps(coupled, family, scores, cost, (multiple, most)) for family in families]
    found: list[Step] = []
    while any(queues):
        best = min((queue for queue in queues if queue), key=lambda queue: queue[0].price)
        found.append(best.pop(0))
    return found


def _steps(
    coupled: Coupled,
    family: Family,
    scores: Mapping[int, float],
    cost: Cost,
    limits: tuple[int, float],
) -> list[Step]:
    """Cut a family, the least score first, so that a multiple stays after each step where there is enough of it.

    What saves nothing goes on to the next step: runtimes work on blocks of channels.
    """
    ranked = sorted(family.groups, key=lambda g: (scores[g.atom], g.atom))
    slots = list(dict.fromkeys(p.slot for g in ranked for p in g.slices if p.slot in cost.of))
    width = _width(family, limits[0], measured=cost.measured is not None)
    limit = min(len(ranked) - 1, int(limits[1] * len(ranked)))
    found: list[Step] = []
    start, end, before = 0, 0, cost.left(coupled, (), slots)
    while (end := end + (((len(ranked) - end) % width) or width)) <= limit:
        after = cost.left(coupled, {g.atom for g in ranked[:end]}, slots)
        if after < before * (1 - _GAIN):
            part = tuple(ranked[start:end])
            price = sum(scores[g.atom] for g in part) / (before - after)
            found.append(Step(family, part, price))
            start, before = end, after
    return found


def _width(family: Family, multiple: int, *, measured: bool) -> int:
    """Return how many groups go at a time."""
    count = len(family.groups)
    if family.kind in _WHOLE or (count < 2 * multiple and not measured):
        return 1
    return max(multiple, -(-count // (_KERNELS * multiple)) * multiple) if measured else multiple


def choose(coupled: Coupled, steps: Sequence[Step], cost: Cost, ratio: float) -> frozenset[int]:
    """Return the atoms of as few steps as save ``ratio`` of the cost, or of all steps if they do not."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if (
            1 - cost.left(coupled, _atoms(coupled, steps[:middle])) / max(cost.whole, 1e-30)
            >= ratio
        ):
            high = middle
        else:
            low = middle + 1
    return _atoms(coupled, steps[:low])


def _atoms(coupled: Coupled, steps: Sequence[Step]) -> frozenset[int]:
    """Return the atoms of steps, without those that would leave an axis empty."""
    gone = {group.atom for step in steps for group in step.groups}
    while emptied := coupled.emptied(gone):
        for atoms in emptied:
            gone -= atoms[0]
    return frozenset(gone)
