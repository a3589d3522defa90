"""Give every tensor a place in one block of memory, so that no two that live at the same time overlap.

Finding the smallest block is NP-hard (dynamic storage allocation; Garey and Johnson, 1979). Tensors are placed one
after the other at the lowest place that is free for as long as they live, the largest first, as is usual (Pisarchyk
and Lee, Efficient Memory Management for Deep Neural Net Inference, MLSys 2020); other sequences are tried, and changed
at random, until the block is as small as the largest set of tensors that live together: none can be smaller.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

__all__ = ["Interval", "Placement", "lower_bound", "place"]

_TRIES = 400
_WORK = 2_000_000
"""Comparisons of two intervals that changing sequences may take."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A tensor: bytes, and the first and the last step at which it is there."""

    size: int
    first: int
    last: int

    def meets(self, other: "Interval") -> bool:
        """Tell whether there is a step at which both are there."""
        return self.first <= other.last and other.first <= self.last


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where each tensor begins, and the bytes of the block."""

    offsets: tuple[int, ...]
    size: int


def lower_bound(intervals: Sequence[Interval]) -> int:
    """Return the bytes of the largest set of tensors that are there at one step."""
    changes: dict[int, int] = {}
    for i in intervals:
        changes[i.first] = changes.get(i.first, 0) + i.size
        changes[i.last + 1] = changes.get(i.last + 1, 0) - i.size
    most = now = 0
    for step in sorted(changes):
        now += changes[step]
        most = max(most, now)
    return most


def place(intervals: Sequence[Interval], *, align: int = 8, seed: int = 0) -> Placement:
    """Return the best placement found; every offset is a multiple of ``align``."""
    rounded = [dataclasses.replace(i, size=-(-i.size // align) * align) for i in intervals]
    bound = lower_bound(rounded)
    best: Placement | None = None
    chosen: list[int] = []
    for key in _KEYS:
        order = sorted(range(len(rounded)), key=lambda k, key=key: key(rounded[k]))  # type: ignore[misc]
        found = _place_in(rounded, order)
        if best is None or found.size < best.size:
            best, chosen = found, order
    assert best is not None
    return best if best.size == bound else _improved(rounded, chosen, best, bound, seed)


_KEYS: Sequence[Callable[[Interval], tuple[int, ...]]] = (
    lambda i: (-i.size, i.first),
    lambda i: (-i.size * (i.last - i.first + 1), i.first),
    lambda i: (-(i.last - i.first), -i.size),
    lambda i: (i.first, -i.size),
    lambda i: (-i.last, -i.size),
)


def _place_in(intervals: Sequence[Interval], order: Sequence[int]) -> Placement:
    """Place one after the other, each into the lowest gap that is large enough."""
    offsets = [0] * len(intervals)
    placed: list[int] = []
    for k in order:
        own = intervals[k]
        taken = sorted(
            (offsets[j], offsets[j] + intervals[j].size) for j in placed if own.meets(intervals[j])
        )
        at = 0
        for begin, end in taken:
            if begin - at >= own.size:
                break
            at = max(at, end)
        offsets[k] = at
        placed.append(k)
    size = max((o + i.size for o, i in zip(offsets, intervals, strict=True)), default=0)
    return Placement(tuple(offsets), size)


def _improved(
    intervals: Sequence[Interval], order: list[int], best: Placement, bound: int, seed: int
) -> Placement:
    """Move one tensor at a time to another turn, and keep what is not worse."""
    rng = random.Random(seed)
    tries = min(_TRIES, _WORK // max(1, len(order) ** 2))
    for _ in range(tries):
        trial = list(order)
        trial.insert(rng.randrange(len(trial)), trial.pop(rng.randrange(len(trial))))
        found = _place_in(intervals, trial)
        if found.size <= best.size:
            order, best = trial, found
        if best.size == bound:
            break
    return best
