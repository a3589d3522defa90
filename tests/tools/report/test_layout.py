"""Layers of a graph: edges point down, neighbours are near, what begins late stands late."""

import random

from whet.tools.report.layout import place_nodes


def test_edges_point_down_and_no_two_nodes_meet() -> None:
    rng = random.Random(0)
    edges = [
        [a, b] for b in range(1, 300) for a in {rng.randrange(b), max(0, b - 1 - rng.randrange(3))}
    ]
    places = place_nodes(300, edges)
    assert all(places[a].line < places[b].line for a, b in edges)
    assert len({(p.line, p.column) for p in places}) == 300


def test_a_chain_is_straight() -> None:
    assert [(p.line, p.column) for p in place_nodes(3, [[0, 1], [1, 2]])] == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]


def test_crossings_are_undone() -> None:
    places = place_nodes(4, [[0, 3], [1, 2]])
    assert (places[0].column < places[1].column) == (places[3].column < places[2].column)


def test_decoded_weights_stand_above_their_reader() -> None:
    # 0 → 1 → 2 → 5 and 3 → 4 → 5, of which 3 and 4 decode a weight.
    places = place_nodes(6, [[0, 1], [1, 2], [2, 5], [3, 4], [4, 5]])
    assert places[5].line == 3
    assert places[4].line == 2


def test_a_wide_layer_is_broken() -> None:
    places = place_nodes(101, [[k, 100] for k in range(100)])
    assert max(p.column for p in places) <= 20
    assert places[100].line == 3


def test_nothing_has_no_places() -> None:
    assert place_nodes(0, []) == []
