"""Choose among whole placements by running them: what layouts and neighbours cost shows in no single operator.

Runtimes keep integer convolutions in another memory layout than float ones, and what it takes to change between them
depends on everything around. So complete models compete, in alternating blocks in one child process: the cheapest
placement by the prices of single steps, all steps, all that are faster alone, none; then the best of these with one
piece at its border moved to the other side, and with all pieces moved that gained. Where a call takes less than a
millisecond, where weights happen to lie changes more than a step does: there the best few meet in a last race of many
blocks, each of which opens its model anew.
"""

from collections.abc import Callable, Mapping, Sequence

from whet.analysis.prices import KernelModel, Prices

__all__ = ["Border", "Placed", "fastest", "flips"]

Placed = frozenset[int]
"""The numbers of the steps that run on integers."""
Border = Callable[[Placed], Sequence[Placed]]
"""From a placement to pieces at its border, each to be moved as a whole."""
_CLEARLY = 0.985
"""Another placement must take less than this share of the time of the best so far."""
_ROUNDS = 2
_SHORT = 1.0
"""Milliseconds below which there is a last race."""
_CLOSE = 1.06
"""Who took up to this multiple of the best time in an earlier race is in it."""
_FINALISTS, _BLOCKS = 4, 25


def fastest(
    prices: Prices,
    label: str,
    model: Callable[[Placed], KernelModel],
    candidates: Sequence[Placed],
    border: Border,
) -> tuple[Placed, Mapping[Placed, float]]:
    """Return the placement whose model runs fastest, and the milliseconds of the last race.

    Earlier candidates win ties; the first one wins where none runs. ``label`` says which model, shapes and formats
    the prices are for.
    """
    seen: dict[Placed, float] = {}

    def run(placements: Sequence[Placed], rounds: int = 5) -> dict[Placed, float]:
        names = {_name(placed): placed for placed in placements}
        work = f"{label}: {' '.join(names)}{f' {rounds} times' if rounds != 5 else ''}"
        models = {name: model(placed) for name, placed in names.items()}
        found = prices.lookup(work, models, rounds)
        times = {names[name]: ms for name, ms in found.items()}
        seen.update({p: ms / min(times.values()) for p, ms in times.items()})
        return times

    times = run(list(dict.fromkeys(candidates)))
    best = _winner(times, candidates)
    for _ in range(_ROUNDS):
        pieces = border(best)
        tried = [best, *dict.fromkeys(best ^ piece for piece in pieces)]
        times = run(tried) if len(tried) > 1 else times
        if best not in times:
            break
        gains = [p for p in pieces if times.get(best ^ p, times[best]) < times[best] * _CLEARLY]
        both = best
        for piece in gains:
            both = both ^ (piece - (both ^ best))
        single = _winner(times, tried)
        if len(gains) > 1 and both not in times:
            times = run([best, single, both])
            single = _winner(times, [best, single, both])
        if single == best:
            break
        best = single
    if best in times and times[best] < _SHORT:
        close = sorted((p for p in seen if seen[p] <= _CLOSE), key=lambda p: seen[p])
        last = list(dict.fromkeys([best, *close]))[:_FINALISTS]
        if len(last) > 1:
            times = {**times, **run(last, _BLOCKS)}
            best = min(last, key=lambda p: times[p])
    return best, times


def _winner(times: Mapping[Placed, float], order: Sequence[Placed]) -> Placed:
    known = [placed for placed in dict.fromkeys(order) if placed in times]
    best = known[0] if known else order[0]
    for placed in known[1:]:
        if times[placed] < times[best] * _CLEARLY:
            best = placed
    return best


def _name(placed: Placed) -> str:
    return f"{sum(1 << k for k in placed):x}"


def flips(
    placed: Placed, links: Sequence[tuple[int, int]], outer: Placed, limit: int
) -> list[Placed]:
    """Return single steps and whole float islands at the border of a placement, ``limit`` at most.

    ``links`` are pairs of a writing and a reading step; ``outer`` are steps beside operators that are no steps. Islands
    come first, then steps in their order.
    """
    near = {a for a, b in links if (a in placed) != (b in placed)}
    near |= {b for a, b in links if (a in placed) != (b in placed)}
    near |= outer
    islands = _islands({k for link in links for k in link if k not in placed}, links)
    found = [frozenset(island) for island in islands if len(island) > 1]
    found += [frozenset({k}) for k in sorted(near)]
    return list(dict.fromkeys(found))[:limit]


def _islands(members: set[int], links: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Return the connected parts of a set of steps, in the order of their first steps."""
    left = set(members)
    found: list[set[int]] = []
    while left:
        part = {min(left)}
        while True:
            grown = part | {k for link in links if part & set(link) for k in link if k in members}
            if grown == part:
                break
            part = grown
        found.append(part)
        left -= part
    return found
