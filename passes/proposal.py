"""A rewrite before it is made: what goes, what comes, how outputs correspond."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir

from whet.ir.values import Array, subgraphs

__all__ = ["Attribute", "Builder", "Proposal"]

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | onnx_ir.Attr


@dataclasses.dataclass
class Proposal:
    """Replace values by others.

    ``old`` are the nodes the rewrite looked at, root first; those that end up unread are removed. ``new`` are nodes
    that are not in the graph yet, in topological order. Nothing in the graph changes until :meth:`commit`, so a
    refused proposal needs no rollback.
    """

    old: tuple[onnx_ir.Node, ...]
    outputs: tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]
    new: tuple[onnx_ir.Node, ...] = ()
    initializers: tuple[onnx_ir.Value, ...] = ()
    places: Mapping[onnx_ir.Node, onnx_ir.Node] = dataclasses.field(
        default_factory=dict[onnx_ir.Node, onnx_ir.Node]
    )
    """New node -> the old node in whose place it goes; the others go before the root. A rewrite that spans a region
    which other nodes depend on, and which depends on them, needs it."""
    home: onnx_ir.Graph | None = None
    """The graph around, for a comparison with nodes that are in no graph themselves; it cannot be committed."""

    @property
    def site(self) -> str:
        """Return the name of the place: that of the root node."""
        root = self.old[0]
        return root.name or root.op_type

    def discard(self) -> None:
        """Detach the new nodes from the values they read."""
        for node in self.new:
            _detach(node)

    def commit(self, origin: str) -> None:
        """Make the replacement in the graph of ``old[0]``; new nodes record ``origin`` and the old names."""
        graph = self.old[0].graph
        if not isinstance(graph, onnx_ir.Graph):
            raise RuntimeError(f"'{self.site}' is in no graph any more")
        for value in self.initializers:
            graph.register_initializer(value)
        for node in self.new:
            graph.insert_before(self.places.get(node, self.old[0]), node)
            graph.opset_imports.setdefault(node.domain, 1)
        self._record_origin(origin)
        for old, new in self.outputs:
            _inherit(old, new)
            _replace(graph, old, new, self.old[0])
        _infer_inner(self.new, graph)
        weights = [v for node in self.old for v in node.inputs if v is not None]
        remove_unread(self.old)
        _drop_unread_weights(graph, weights)

    def _record_origin(self, origin: str) -> None:
        names = ",".join(node.name or node.op_type for node in self.old[:8])
        scope = self.old[0].metadata_props.get("pkg.torch.onnx.name_scopes")
        for node in self.new:
            node.metadata_props["whet.from"] = f"{origin}:{names}"
            if scope is not None:
                node.metadata_props.setdefault("pkg.torch.onnx.name_scopes", scope)


def remove_unread(nodes: Iterable[onnx_ir.Node]) -> int:
    """Remove those of ``nodes`` whose outputs nobody reads; return how many went.

    Readers before what they read (root first) need one sweep.
    """
    waiting = [node for node in dict.fromkeys(nodes) if node.graph is not None]
    total = len(waiting)
    while True:
        kept = [node for node in waiting if not _remove_if_unread(node)]
        if len(kept) == len(waiting):
            return total - len(kept)
        waiting = kept


def _remove_if_unread(node: onnx_ir.Node) -> bool:
    if any(v.uses() or v.is_graph_output() for v in node.outputs):
        return False
    graph = node.graph
    assert graph is not None
    _detach(node)
    graph.remove(node)
    return True


def _drop_unread_weights(graph: onnx_ir.Graph, values: Iterable[onnx_ir.Value]) -> None:
    """Take initializers that lost their last reader out of the graph; inputs and outputs stay."""
    for value in values:
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        if value.name is not None and graph.initializers.get(value.name) is value:
            graph.initializers.pop(value.name)


def _detach(node: onnx_ir.Node) -> None:
    """Take the node, and the nodes in its subgraphs, out of the readers of their inputs."""
    for graph in subgraphs(node):
        for inner in graph.all_nodes():
            _drop_inputs(inner)
    _drop_inputs(node)


def _drop_inputs(node: onnx_ir.Node) -> None:
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _inherit(old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape


def _replace(
    graph: onnx_ir.Graph, old: onnx_ir.Value, new: onnx_ir.Value, anchor: onnx_ir.Node
) -> None:
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    free = new.producer() is not None and not new.is_graph_output() and new.graph is graph
    if not free:
        identity = onnx_ir.Node("", "Identity", [new], num_outputs=1)
        graph.insert_before(anchor, identity)
        _inherit(old, identity.outputs[0])
        new = identity.outputs[0]
    name = old.name
    old.name = f"{name}.replaced"
    new.name = name
    if old.type is not None:
        new.type = old.type
    if old.shape is not None:
        new.shape = old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _infer_inner(nodes: Sequence[onnx_ir.Node], graph: onnx_ir.Graph) -> None:
    """Give types and shapes to the values between new nodes, which no old value describes."""
    for node in nodes:
        if node.domain == "" and any(v.type is None or v.shape is None for v in node.outputs):
            _infer_node(node, graph.opset_imports.get("", 23))


def _infer_node(node: onnx_ir.Node, opset: int) -> None:
    from onnx.shape_inference import infer_node_outputs

    types = {v.name: _type_proto(v) for v in node.inputs if v is not None}
    if any(proto is None for proto in types.values()):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
        found = infer_node_outputs(
            schema,
            onnx_ir.serde.serialize_node(node),
            {name: proto for name, proto in types.items() if name and proto},
            {
                v.name: onnx_ir.serde.serialize_tensor(v.const_value)
                for v in node.inputs
                if v is not None
                and v.name
                and v.const_value is not None
                and v.const_value.size <= 64
            },
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError, RuntimeError):
        return
    for value in node.outputs:
        proto = found.get(value.name or "")
        if proto is not None:
            value.type = value.type or onnx_ir.serde.deserialize_type_proto_for_type(proto)
            value.shape = value.shape or onnx_ir.serde.deserialize_type_proto_for_shape(proto)


def _type_proto(value: onnx_ir.Value) -> onnx.TypeProto | None:
    if value.type is None:
        return None
    return onnx_ir.serde.serialize_value(value).type


class Builder:
    """Make the new nodes and weights of one proposal; ``build.op("Add", x, y)`` returns the output value."""

    def __init__(self, fresh: Callable[[str], str], near: onnx_ir.Node) -> None:
        """Names derive from the node ``near`` that the rewrite starts at."""
        self._fresh = fresh
        self._stem = near.name or near.op_type
        self.nodes: list[onnx_ir.Node] = []
        self.initializers: list[onnx_ir.Value] = []

    def op(
        self,
        op_type: str,
        *inputs: onnx_ir.Value | None,
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> onnx_ir.Value:
        """Add a node with one output and return that output."""
        return self.ops(op_type, inputs, 1, domain=domain, attributes=attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[onnx_ir.Value | None],
        outputs: int,
        *,
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> tuple[onnx_ir.Value, ...]:
        """Add a node with several outputs and return them."""
        node = onnx_ir.Node(
            domain,
            op_type,
            inputs,
            attributes=_attributes(attributes or {}),
            num_outputs=outputs,
            name=self._fresh(self._stem),
        )
        for value in node.outputs:
            value.name = self._fresh(f"{self._stem}.{op_type}")
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, array: Array, name: str = "") -> onnx_ir.Value:
        """Add a weight under a fresh name (a shared weight's name is never reused)."""
        label = self._fresh(name or f"{self._stem}.const")
        return self.weight(onnx_ir.tensor(np.asarray(array, order="C"), name=label), label)

    def weight(self, tensor: onnx_ir.TensorProtocol, name: str) -> onnx_ir.Value:
        """Add a weight that is already a tensor (packed int4, external, …); ``name`` must be fresh."""
        value = onnx_ir.Value(
            name=name,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def ints(self, *numbers: int) -> onnx_ir.Value:
        """Add a one-dimensional int64 constant."""
        return self.constant(np.asarray(numbers, dtype=np.int64))

    def fresh(self, name: str) -> str:
        """Return a name that nothing in the model has."""
        return self._fresh(name)


def _attributes(given: Mapping[str, Attribute]) -> list[onnx_ir.Attr]:
    return [
        value
        if isinstance(value, onnx_ir.Attr)
        else onnx_ir.convenience.convert_attribute(name, value)
        for name, value in given.items()
    ]


class FreshNames:
    """Hand out names that are unused in the model, the same ones in every run."""

    def __init__(self, model: onnx_ir.Model) -> None:
        """Collect every name in the model, those of subgraphs included."""
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        graphs = [model.graph, *model.graph.subgraphs()]
        for graph in graphs:
            self._taken.update(v.name for v in graph.inputs if v.name)
            self._taken.update(graph.initializers)
            for node in graph:
                if node.name:
                    self._taken.add(node.name)
                self._taken.update(v.name for v in node.outputs if v.name)

    def __call__(self, stem: str) -> str:
        """Return ``stem`` or ``stem.N`` with the smallest N that is free."""
        base = stem or "value"
        number = self._next.get(base, 0)
        name = base if number == 0 and base not in self._taken else ""
        while not name:
            number += 1
            candidate = f"{base}.{number}"
            if candidate not in self._taken:
                name = candidate
        self._next[base] = number
        self._taken.add(name)
        return name
