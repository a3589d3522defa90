"""Place the nodes of a directed graph in layers, so that edges point down and few of them cross.

A node's layer is the length of the longest path to it (Sugiyama, Tagawa and Toda, 1981, without dummy nodes); within a
layer, nodes are sorted by the mean place of their neighbours, downwards and upwards in turns.
"""

import dataclasses
from collections.abc import Sequence

__all__ = ["Place", "place_nodes"]

_SWEEPS = 6
_WIDEST = 40
"""Nodes in a layer at most; what is more goes to further lines of it."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a node is: its line from above, and its column, which may be half."""

    line: int
    column: float


def place_nodes(count: int, edges: Sequence[Sequence[int]]) -> list[Place]:
    """Return the place of each of ``count`` nodes; every edge must point to a larger number."""
    behind: list[list[int]] = [[] for _ in range(count)]
    ahead: list[list[int]] = [[] for _ in range(count)]
    for start, end in edges:
        behind[end].append(start)
        ahead[start].append(end)
    layers = _layers(behind, ahead)
    order = [0.0] * count
    for layer in layers:
        for k, node in enumerate(layer):
            order[node] = k - (len(layer) - 1) / 2
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            _sort(layer, behind if down else ahead, order)
    return _places(layers, count)


def _layers(behind: Sequence[Sequence[int]], ahead: Sequence[Sequence[int]]) -> list[list[int]]:
    depth: list[int] = []
    for sources in behind:
        depth.append(1 + max((depth[s] for s in sources), default=-1))
    for node in reversed(range(len(depth))):
        # What begins a path, decoded weights above all, goes to its readers.
        begins = all(not behind[source] for source in behind[node])
        if begins and ahead[node]:
            depth[node] = min(depth[reader] for reader in ahead[node]) - 1
    found: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for node, line in enumerate(depth):
        found[line].append(node)
    return found


def _sort(layer: list[int], neighbours: Sequence[Sequence[int]], order: list[float]) -> None:
    """Sort a layer by the mean place of its neighbours; those without any stay where they are."""
    means = {
        node: sum(order[n] for n in neighbours[node]) / len(neighbours[node])
        if neighbours[node]
        else order[node]
        for node in layer
    }
    layer.sort(key=lambda node: (means[node], order[node]))
    middle = (len(layer) - 1) / 2
    for k, node in enumerate(layer):
        order[node] = k - middle


def _places(layers: Sequence[Sequence[int]], count: int) -> list[Place]:
    found = [Place(0, 0.0)] * count
    line = 0
    for layer in layers:
        for start in range(0, len(layer), _WIDEST):
            row = layer[start : start + _WIDEST]
            for k, node in enumerate(row):
                found[node] = Place(line, k - (len(row) - 1) / 2)
            line += 1
    return found
