"""Write the router and the lookups once more: without some experts, or with scores of minus infinity for them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.experts import Experts
from whet.analysis.experts.routing import weight_axis
from whet.ir.values import Array, constant, is_constant, is_op
from whet.passes.proposal import Builder, Proposal

__all__ = ["Rerouted", "compared", "dropped", "masked", "merged", "replaced", "restacked"]


class Rerouted:
    """Copies of some nodes of a layer of experts; what they read is the copy where there is one."""

    def __init__(self, experts: Experts, build: Builder, nodes: Sequence[onnx_ir.Node]) -> None:
        """Begin with no copy."""
        self.experts = experts
        self.build = build
        self.nodes = tuple(nodes)
        self.new: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self.places: dict[onnx_ir.Node, onnx_ir.Node] = {}

    def copy(self, node: onnx_ir.Node, constants: Mapping[int, Array]) -> None:
        """Copy a node with some constants replaced, by operand."""
        inputs = [self._operand(node, place, constants) for place in range(len(node.inputs))]
        made = self.build.ops(
            node.op_type,
            inputs,
            len(node.outputs),
            domain=node.domain,
            attributes=dict(node.attributes),
        )
        for old, new in zip(node.outputs, made, strict=True):
            new.type = old.type
            self.new[old] = new
        self.places.update((n, node) for n in self.build.nodes if n not in self.places)

    def _operand(
        self, node: onnx_ir.Node, place: int, constants: Mapping[int, Array]
    ) -> onnx_ir.Value | None:
        value = node.inputs[place]
        if value is None or place not in constants:
            return None if value is None else self.new.get(value, value)
        return self.build.constant(constants[place], value.name or "")

    def results(self) -> list[onnx_ir.Value]:
        """Return what nodes outside read of those that have a copy."""
        inside = set(self.nodes)
        return [
            value
            for node in self.nodes
            for value in node.outputs
            if value in self.new
            and (value.is_graph_output() or any(n not in inside for n in value.consumers()))
        ]


def _region(experts: Experts) -> list[onnx_ir.Node]:
    inside = {*experts.router, *experts.chosen}
    return [node for node in experts.node.graph or () if node in inside]


def _stacked(
    experts: Experts, arrays: Mapping[onnx_ir.Value, Array]
) -> dict[onnx_ir.Node, dict[int, Array]]:
    """Return the new stacked weights by the node and operand that read them."""
    found: dict[onnx_ir.Node, dict[int, Array]] = {}
    for stack in experts.stacks:
        if stack.value in arrays:
            for node, place in stack.readers:
                found.setdefault(node, {})[place] = arrays[stack.value]
    return found


def masked(experts: Experts, kept: Array, build: Builder) -> Rerouted:
    """Return the layer with logits of minus infinity for all experts but those kept."""
    lost = np.zeros(experts.count, np.float32)
    lost[np.setdiff1d(np.arange(experts.count), kept)] = -np.inf
    made = Rerouted(experts, build, _region(experts))
    dtype = experts.logits.dtype
    kind = np.dtype(np.float32) if dtype is None else dtype.numpy()
    maker = experts.logits.producer()
    for node in made.nodes:
        given: dict[int, Array] = {}
        if is_op(node, "Add") and node in experts.router and node is not maker:
            given = {
                p: np.asarray(np.add(a, lost, dtype=a.dtype)) for p, a, _ in _scored(experts, node)
            }
        made.copy(node, given)
        if node is maker:
            logits = made.new[experts.logits]
            made.new[experts.logits] = build.op("Add", logits, build.constant(lost.astype(kind)))
    return made


def _scored(experts: Experts, node: onnx_ir.Node) -> list[tuple[int, Array, int]]:
    """Return the constants of a router's node with an axis of experts: operand, numbers, axis."""
    found: list[tuple[int, Array, int]] = []
    for place, value in enumerate(node.inputs):
        array = constant(value) if is_constant(value) else None
        if array is None:
            continue
        axis = weight_axis(node, place, experts.count)
        if axis is not None:
            found.append((place, array, axis))
    return found


def dropped(experts: Experts, kept: Array, build: Builder) -> Rerouted:
    """Return the layer without all experts but those kept: rows of the router and weights go."""
    used, table = _renumbered(experts, kept)
    weights = _stacked(
        experts,
        {s.value: np.ascontiguousarray(s.array[used.astype(np.intp)]) for s in experts.stacks},
    )
    made = Rerouted(experts, build, _region(experts))
    for node in made.nodes:
        given = dict(weights.get(node, {}))
        if node in experts.router and node is not experts.node:
            given |= {
                p: np.ascontiguousarray(np.take(a, kept.astype(np.int64), x))
                for p, a, x in _scored(experts, node)
            }
            given |= _target(node, len(kept))
        elif table is not None and is_op(node, "Gather") and node not in weights:
            given[0] = table
        made.copy(node, given)
    return made


def _renumbered(experts: Experts, kept: Array) -> tuple[Array, Array | None]:
    """Return which weights are still used, and the new table where there is one."""
    if experts.table is None:
        return kept, None
    used, places = np.unique(experts.table[kept.astype(np.intp)], return_inverse=True)
    return used, places.reshape(-1).astype(experts.table.dtype)


def _target(node: onnx_ir.Node, count: int) -> dict[int, Array]:
    """Return the target of a Reshape of scores with another last axis."""
    target = constant(node.inputs[1]) if is_op(node, "Reshape") else None
    if target is None:
        return {}
    target = target.copy()
    target[-1] = count
    return {1: target}


def merged(
    experts: Experts, table: Array | None, arrays: Mapping[onnx_ir.Value, Array], build: Builder
) -> Rerouted:
    """Return the lookups with other weights; with a table, the chosen experts are mapped by it first."""
    weights = _stacked(experts, arrays)
    made = Rerouted(experts, build, [node for node, _ in _lookups(experts)])
    for node in made.nodes:
        index = node.inputs[1]
        assert index is not None
        if table is not None and index not in made.new:
            numbers = build.constant(table.astype(np.int64))
            made.new[index] = build.op("Gather", numbers, index, attributes={"axis": 0})
        made.copy(node, weights.get(node, {}))
    for node in made.nodes:
        index = node.inputs[1]
        if index is not None:
            made.new.pop(index, None)
    return made


def _lookups(experts: Experts) -> list[tuple[onnx_ir.Node, int]]:
    readers = {node: place for stack in experts.stacks for node, place in stack.readers}
    return [(node, readers[node]) for node in experts.chosen if node in readers]


def restacked(experts: Experts, arrays: Mapping[onnx_ir.Value, Array], build: Builder) -> Rerouted:
    """Return ORT's operator with other weights."""
    made = Rerouted(experts, build, [experts.node])
    made.copy(experts.node, _stacked(experts, arrays)[experts.node])
    return made


def replaced(new: Rerouted) -> Proposal:
    """Return the proposal to put the copies in place of what they are copies of."""
    nodes = [n for n in reversed(new.nodes) if any(v in new.new for v in n.outputs)]
    root = new.experts.node if new.experts.node in nodes else nodes[0]
    pairs = tuple((value, new.new[value]) for value in new.results())
    order = (root, *(node for node in nodes if node is not root))
    return Proposal(order, pairs, tuple(new.build.nodes), tuple(new.build.initializers), new.places)


def compared(old: Rerouted, new: Rerouted) -> Proposal:
    """Return the comparison of two copies; it cannot be committed."""
    graph = new.experts.node.graph
    assert isinstance(graph, onnx_ir.Graph)
    pairs = tuple((old.new[v], new.new[v]) for v in new.results() if v in old.new)
    return Proposal(
        tuple(reversed(old.build.nodes)),
        pairs,
        tuple(new.build.nodes),
        tuple(new.build.initializers),
        {},
        graph,
    )
