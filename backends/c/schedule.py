"""Order steps so that little memory is in use at any time; results take the memory of operands that end there."""

import dataclasses
import random
from collections.abc import Mapping, Sequence

from whet.backends.c.arena import Interval, lower_bound
from whet.backends.c.program import Buffer, Step

__all__ = ["Lifetimes", "lifetimes", "schedule"]

_WORK = 300_000
"""Steps that the search for a better order may walk through."""


@dataclasses.dataclass(frozen=True)
class Lifetimes:
    """When memory is used, step by step; several buffers can be one piece of it, one after the other."""

    intervals: tuple[Interval, ...]
    piece: Mapping[Buffer, int]

    @property
    def peak(self) -> int:
        """Return the bytes of the largest set that is there at one step."""
        return lower_bound(self.intervals)


def lifetimes(steps: Sequence[Step]) -> Lifetimes:
    """Return what lives when, in this order; only memory of the arena counts."""
    last: dict[Buffer, int] = {}
    for number, step in enumerate(steps):
        for buffer in (*step.reads, *step.writes, *step.scratch):
            last[buffer] = number
    piece: dict[Buffer, int] = {}
    spans: list[list[int]] = []
    for number, step in enumerate(steps):
        free = [b for b in step.in_place if b in piece and last[b] == number and b in step.reads]
        for buffer in (*step.writes, *step.scratch):
            if buffer.place != "arena" or buffer in piece:
                continue
            heir = next(
                (b for b in free if b.bytes == buffer.bytes and buffer in step.writes), None
            )
            if heir is not None:
                free.remove(heir)
                piece[buffer] = piece[heir]
                spans[piece[heir]][2] = last[buffer]
            else:
                piece[buffer] = len(spans)
                spans.append([buffer.bytes, number, last[buffer]])
    return Lifetimes(tuple(Interval(*span) for span in spans), piece)


def schedule(steps: Sequence[Step], *, seed: int = 0) -> list[Step]:
    """Return the steps in the order with the lowest peak that was found; the model's own order wins ties."""
    needs = _needs(steps)
    starts = [list(range(len(steps))), _greedy(steps, needs), _deep(steps, needs)]
    ranked = sorted(starts, key=lambda order: _cost(steps, order))
    best = _improved(steps, needs, ranked[0], seed)
    own = starts[0]
    return [steps[k] for k in (own if _cost(steps, own)[0] <= _cost(steps, best)[0] else best)]


def _cost(steps: Sequence[Step], order: Sequence[int]) -> tuple[int, int]:
    """Return the peak, and the sum over time, which tells orders of the same peak apart."""
    found = lifetimes([steps[k] for k in order])
    return found.peak, sum(i.size * (i.last - i.first + 1) for i in found.intervals)


def _needs(steps: Sequence[Step]) -> list[set[int]]:
    """Return the steps that must come before each."""
    maker = {buffer: k for k, step in enumerate(steps) for buffer in step.writes}
    return [
        {maker[b] for b in step.reads if b in maker and maker[b] != k}
        for k, step in enumerate(steps)
    ]


def _greedy(steps: Sequence[Step], needs: Sequence[set[int]]) -> list[int]:
    """Take the step next that leaves least memory in use."""
    readers: dict[Buffer, set[int]] = {}
    for k, step in enumerate(steps):
        for buffer in step.reads:
            readers.setdefault(buffer, set()).add(k)
    done: list[int] = []
    waiting = set(range(len(steps)))
    while waiting:
        ready = [k for k in waiting if needs[k].isdisjoint(waiting)]
        best = min(ready, key=lambda k: (_growth(steps[k], k, readers), k))
        done.append(best)
        waiting.discard(best)
        for buffer in steps[best].reads:
            readers[buffer].discard(best)
    return done


def _growth(step: Step, number: int, readers: Mapping[Buffer, set[int]]) -> int:
    made = sum(b.bytes for b in step.writes if b.place == "arena")
    freed = sum(b.bytes for b in step.reads if b.place == "arena" and readers[b] <= {number})
    return made - freed


def _deep(steps: Sequence[Step], needs: Sequence[set[int]]) -> list[int]:
    """Finish one branch before the next, the one that makes the larger result first."""
    order: list[int] = []
    seen: set[int] = set()
    for root in range(len(steps)):
        stack = [(root, False)]
        while stack:
            k, ready = stack.pop()
            if ready:
                order.append(k)
            elif k not in seen:
                seen.add(k)
                stack.append((k, True))
                stack += [(n, False) for n in sorted(needs[k], key=lambda n: _made(steps[n]))]
    return order


def _made(step: Step) -> int:
    return sum(b.bytes for b in step.writes)


def _improved(
    steps: Sequence[Step], needs: Sequence[set[int]], order: list[int], seed: int
) -> list[int]:
    """Move one step at a time as far as its neighbours allow, and keep what is not worse."""
    rng = random.Random(seed)
    best, cost = list(order), _cost(steps, order)
    for _ in range(min(300, _WORK // max(1, len(order)))):
        if len(order) < 3:
            break
        trial = list(best)
        step = trial.pop(rng.randrange(len(trial)))
        first = max((trial.index(k) + 1 for k in needs[step]), default=0)
        last = min((n for n, k in enumerate(trial) if step in needs[k]), default=len(trial))
        trial.insert(rng.randint(first, last), step)
        found = _cost(steps, trial)
        if found <= cost:
            best, cost = trial, found
    return best
