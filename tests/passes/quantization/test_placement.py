import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.quantization.placement import Task, place

COST = st.integers(0, 20).map(float)


def by_trying(
    tasks: list[Task],
    enter: Mapping[str, float],
    leave: Mapping[str, float],
    outside: frozenset[str],
) -> float:
    """Return the least cost over all placements."""
    return min(
        cost_of(tasks, enter, leave, outside, frozenset(k for k, on in enumerate(bits) if on))
        for bits in itertools.product([False, True], repeat=len(tasks))
    )


def cost_of(
    tasks: list[Task],
    enter: Mapping[str, float],
    leave: Mapping[str, float],
    outside: frozenset[str],
    integers: frozenset[int],
) -> float:
    total = sum(t.in_integers if k in integers else t.in_float for k, t in enumerate(tasks))
    makers = {v: k for k, t in enumerate(tasks) for v in t.writes}
    for value in {v for t in tasks for v in (*t.reads, *t.writes)}:
        made = makers.get(value) in integers
        readers = [k in integers for k, t in enumerate(tasks) if value in t.reads]
        readers += [False] * (value in outside)
        total += enter[value] if not made and any(readers) else 0
        total += leave[value] if made and not all(readers) else 0
    return total


@st.composite
def networks(
    draw: st.DrawFn,
) -> tuple[list[Task], dict[str, float], dict[str, float], frozenset[str]]:
    names = ["v0"]
    tasks: list[Task] = []
    for k in range(draw(st.integers(1, 5))):
        reads = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)))
        names.append(f"v{k + 1}")
        tasks.append(Task(draw(COST), draw(COST), reads, (names[-1],)))
    enter, leave = ({n: draw(COST) for n in names} for _ in range(2))
    return tasks, enter, leave, frozenset(draw(st.sets(st.sampled_from(names))) | {names[-1]})


@given(networks())
def test_no_other_placement_is_cheaper(
    network: tuple[list[Task], dict[str, float], dict[str, float], frozenset[str]],
) -> None:
    found = place(*network)
    assert found.milliseconds == pytest.approx(by_trying(*network), abs=1e-3)
    assert cost_of(*network, found.integers) == pytest.approx(found.milliseconds, abs=1e-3)


def test_a_chain_moves_together_although_no_link_pays_alone() -> None:
    tasks = [Task(2.0, 1.0, (f"v{k}",), (f"v{k + 1}",)) for k in range(5)]
    crossing = {f"v{k}": 1.0 for k in range(6)}
    outside = frozenset({"v5"})
    assert place(tasks, crossing, crossing, outside).integers == frozenset(range(5))
    assert place(tasks[:1], crossing, crossing, frozenset({"v1"})).integers == frozenset()
