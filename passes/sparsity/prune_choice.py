"""Choose groups: the least score for what it saves, in steps that leave counts the runtime likes."""

import dataclasses
from collections.abc import Mapping, Sequence

from whet.analysis.coupling import Coupled, Family, Group, Kind
from whet.passes.sparsity.prune_weights import Cost

__all__ = ["Step", "choose", "order_steps"]

_WHOLE = (Kind.HEADS,)
"""Kinds that go one by one: a head is wide enough."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Groups of one family that go together, after those of the family's earlier steps."""

    family: Family
    groups: tuple[Group, ...]
    price: float
    """Score lost per unit saved."""


def order_steps(
    families: Sequence[Family],
    scores: Mapping[int, float],
    cost: Cost,
    multiple: int,
    most: float,
) -> list[Step]:
    """Return steps in the order in which they should be made, those of one family in order of their score."""
    queues = [_steps(family, scores, cost, multiple, most) for family in families]
    found: list[Step] = []
    while any(queues):
        best = min((queue for queue in queues if queue), key=lambda queue: queue[0].price)
        found.append(best.pop(0))
    return found


def _steps(
    family: Family, scores: Mapping[int, float], cost: Cost, multiple: int, most: float
) -> list[Step]:
    """Cut a family, the least score first, so that a multiple stays after each step where there is enough of it."""
    ranked = sorted(family.groups, key=lambda g: (scores[g.atom], g.atom))
    width = 1 if family.kind in _WHOLE or len(ranked) < 2 * multiple else multiple
    limit = min(len(ranked) - 1, int(most * len(ranked)))
    found: list[Step] = []
    start = 0
    while (end := start + (((len(ranked) - start) % width) or width)) <= limit:
        part = tuple(ranked[start:end])
        saved = sum(_saved(group, cost) for group in part)
        if saved <= 0:
            return found
        found.append(Step(family, part, sum(scores[g.atom] for g in part) / saved))
        start = end
    return found


def _saved(group: Group, cost: Cost) -> float:
    total = 0.0
    for slot, count in group.removed().items():
        if slot in cost.of:
            size = slot.value.const_value.size if slot.value.const_value is not None else 1
            total += cost.of[slot] * count / size
    return total


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
