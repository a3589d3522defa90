"""The parts of a graph that change when groups go: connected, and with borders that stay as they are."""

import dataclasses
from collections.abc import Collection

import onnx_ir

from whet.analysis.coupling import Coupled

__all__ = ["Region", "find_regions"]


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Nodes in graph order, and the values that others read, whose shape does not change."""

    nodes: tuple[onnx_ir.Node, ...]
    results: tuple[onnx_ir.Value, ...]
    home: onnx_ir.Graph


def find_regions(coupled: Coupled, gone: Collection[int], graph: onnx_ir.Graph) -> list[Region]:
    """Return every connected part that changes when groups of these atoms go."""
    parents: dict[onnx_ir.Node, onnx_ir.Node] = {}

    def root(node: onnx_ir.Node) -> onnx_ir.Node:
        while parents[node] is not node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for nodes in _bonds(coupled, gone, graph):
        for node in nodes:
            parents.setdefault(node, node)
            parents[root(node)] = root(nodes[0])
    found: dict[onnx_ir.Node, list[onnx_ir.Node]] = {}
    for node in graph:
        if node in parents:
            found.setdefault(root(node), []).append(node)
    return [Region(tuple(nodes), _results(nodes), graph) for nodes in found.values()]


def _bonds(
    coupled: Coupled, gone: Collection[int], graph: onnx_ir.Graph
) -> list[list[onnx_ir.Node]]:
    """Return the nodes around every value that shrinks."""
    found = [
        [node for node, _ in slot.readers]
        for slot in coupled.slots
        if any(kept is not None for kept in coupled.remaining(slot.axes, gone))
    ]
    for node in graph:
        for value in node.outputs:
            if any(kept is not None for kept in coupled.remaining(coupled.axes(value), gone)):
                found.append([node, *value.consumers()])
    return found


def _results(nodes: list[onnx_ir.Node]) -> tuple[onnx_ir.Value, ...]:
    inside = set(nodes)
    return tuple(
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(reader not in inside for reader in value.consumers())
    )
