"""The graph of a result as one SVG element with its nodes coloured by what was done to them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.layout import place_nodes

__all__ = ["Drawn", "Node", "draw_graph"]

_WIDTH, _HEIGHT, _RIGHT, _DOWN = 132, 26, 146, 46
_LETTERS = 20


@dataclasses.dataclass(frozen=True)
class Node:
    """A box: where it is, what it says, and how it came to be."""

    x: float
    y: int
    label: str
    title: str
    style: str
    """kept, changed (the same numbers, up to rounding) or lossy."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Boxes, all edges as one path, and the extent."""

    nodes: Sequence[Node]
    edges: str
    box: tuple[float, int, float, int]
    """Left, top, width and height."""
    counts: Mapping[str, int]
    size: tuple[int, int] = (_WIDTH, _HEIGHT)


def draw_graph(graph: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Drawn:
    """Lay a recorded graph out, inputs above."""
    fidelity = {step["name"]: step["fidelity"] for step in steps}
    places = place_nodes(len(graph["nodes"]), graph["edges"])
    spots = [(p.column * _RIGHT, p.line * _DOWN) for p in places]
    nodes = [
        Node(x, y, _label(kind), _title(kind, name, maker, pieces), _style(maker, fidelity))
        for (x, y), (kind, name, maker, pieces) in zip(spots, graph["nodes"], strict=True)
    ]
    edges = "".join(_edge(spots[a], spots[b]) for a, b in graph["edges"])
    left = min((x for x, _ in spots), default=0.0) - 20
    right = max((x for x, _ in spots), default=0.0) + _WIDTH + 20
    bottom = max((y for _, y in spots), default=0) + _HEIGHT + 20
    counts = {style: sum(n.style == style for n in nodes) for style in ("kept", "changed", "lossy")}
    return Drawn(nodes, edges, (left, -20, right - left, bottom + 20), counts)


def _label(kind: str) -> str:
    name = kind.rpartition(".")[2]
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _title(kind: str, name: str, maker: str, pieces: str) -> str:
    origin = f"\nmade by {maker} from {pieces}" if maker else "\nas in the source"
    return f"{kind} {name}{origin}"


def _style(maker: str, fidelity: Mapping[str, str]) -> str:
    if not maker:
        return "kept"
    return "lossy" if fidelity.get(maker) == "lossy" else "changed"


def _edge(start: tuple[float, int], end: tuple[float, int]) -> str:
    x, y = start[0] + _WIDTH / 2, start[1] + _HEIGHT
    return f"M{x:g} {y}L{end[0] + _WIDTH / 2:g} {end[1]}"
