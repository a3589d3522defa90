"""Cut out the subgraph in which both sides of a proposal can be executed."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.values import Array, captured
from whet.passes.proposal import Proposal
from whet.passes.structural_key import nodes_key, tensor_key

__all__ = ["Cut", "name_of"]

_EMBED = 256
"""Constants of up to this many elements are part of the cut; larger ones are fed, which copies nothing."""
_GROWTH = 400
"""A cut that needs more context nodes than this is given up."""
_FLOATS: dict[int, int] = dict.fromkeys(
    (int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16)),
    int(onnx.TensorProto.DOUBLE),
)


class Cut:
    """The subgraph that contains both sides of a proposal."""

    def __init__(
        self, proposal: Proposal, bindings: Bindings, samples: Mapping[str, Array] | None = None
    ) -> None:
        self._proposal = proposal
        self._bindings = bindings
        self.samples = samples or {}
        self._graph = proposal.home or proposal.old[0].graph
        self._context: dict[onnx_ir.Node, None] = dict.fromkeys(proposal.old)
        inside = {v for node in proposal.old for v in node.inputs}
        for _, new in proposal.outputs:
            producer = new.producer()
            if producer is not None and producer not in proposal.new and new not in inside:
                self._context[producer] = None
        self.drawn: list[onnx_ir.Value] = []
        self.fed: list[onnx_ir.Value] = []
        self._embedded: list[onnx_ir.Value] = []

    def close(self) -> None:
        """Grow until every boundary value is a constant, can be drawn, or is an input of the model."""
        while True:
            self.drawn, self.fed, self._embedded = [], [], []
            missing = self._sort_boundary()
            if not missing:
                return
            for value in missing:
                self._include(value)

    def grow(self) -> bool:
        """Take in the producers of everything drawn; False when there is nothing left to take in."""
        before = len(self._context)
        for value in self.drawn:
            producer = value.producer()
            if producer is not None and producer.graph is self._graph:
                self._include(value)
        return len(self._context) > before

    def _include(self, value: onnx_ir.Value) -> None:
        producer = value.producer()
        if producer is None or producer.graph is not self._graph:
            raise CannotRun(f"the type or shape of '{value.name}' is not known")
        self._context[producer] = None
        if len(self._context) > _GROWTH:
            raise CannotRun(f"more than {_GROWTH} nodes would have to be executed")

    def _sort_boundary(self) -> list[onnx_ir.Value]:
        made = {v for node in self._all() for v in node.outputs}
        missing: list[onnx_ir.Value] = []
        new_outputs = [new for _, new in self._proposal.outputs]
        for value in _unique([*_read(self._all()), *new_outputs]):
            if value in made:
                continue
            if value.const_value is not None and not value.is_graph_input():
                (self._embedded if _is_embedded(value.const_value) else self.fed).append(value)
            elif self._drawable(value):
                self.drawn.append(value)
            else:
                missing.append(value)
        return missing

    def _drawable(self, value: onnx_ir.Value) -> bool:
        if not isinstance(value.type, onnx_ir.TensorType):
            return False
        dtype = value.type.dtype
        if value.name in self.samples:
            return True
        from_model = value.producer() is None
        if not (dtype.is_floating_point() or dtype == onnx_ir.DataType.BOOL or from_model):
            return False
        return all(self._bindings.shape(value, b) is not None for b in self._bindings.choices)

    def _all(self) -> list[onnx_ir.Node]:
        return [*self._context, *self._proposal.new]

    def proto(
        self, opsets: dict[str, int], ir_version: int, *, wide: bool, new_side: bool = True
    ) -> onnx.ModelProto:
        """Return a model with the old and the new side, outputs ``old_k`` and ``new_k``."""
        order = _topological(self._all() if new_side else list(self._context))
        nodes = [onnx_ir.serde.serialize_node(node) for node in order]
        outputs: list[onnx.ValueInfoProto] = []
        for k, (old, new) in enumerate(self._proposal.outputs):
            for side, value in (("old", old), ("new", new))[: 2 if new_side else 1]:
                nodes.append(helper.make_node("Identity", [name_of(value)], [f"{side}_{k}"]))
                outputs.append(_declare(f"{side}_{k}", old, wide=wide, shaped=False))
        inputs = [
            _declare(name_of(v), v, wide=wide, shaped=v in self.fed)
            for v in [*self.drawn, *self.fed]
        ]
        weights = [_embed(v, wide=wide) for v in self._embedded]
        graph = helper.make_graph(nodes, "cut", inputs, outputs, weights)
        if wide:
            _widen(graph)
        domains = {node.domain for node in nodes} | {""}
        imports = [helper.make_opsetid(d, opsets.get(d, 1)) for d in sorted(domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)

    def key(self) -> Hashable | None:
        """Return what the proof depends on, without names; None where weights are fed or operators are opaque."""
        if self.fed:
            return None
        numbers: dict[onnx_ir.Value, int] = {}
        nodes = nodes_key(_topological(self._all()), numbers)
        constants = [(numbers.get(v), _constant_key(v)) for v in self._embedded]
        if nodes is None or any(key is None for _, key in constants):
            return None
        drawn = tuple((numbers.get(v), v.dtype, self._data_key(v)) for v in self.drawn)
        outputs = tuple((numbers.get(o), numbers.get(n)) for o, n in self._proposal.outputs)
        return tuple(nodes), tuple(constants), drawn, outputs

    def _data_key(self, value: onnx_ir.Value) -> Hashable:
        """Return the shapes that are drawn, and the name where real data are drawn from."""
        shapes = tuple(self._bindings.shape(value, b) for b in self._bindings.choices)
        return shapes, value.name if value.name in self._bindings.examples else None

    def mentions(self, op_type: str) -> bool:
        """Tell whether a standard operator is on either side."""
        return any(node.op_type == op_type and node.domain == "" for node in self._all())

    @property
    def pairs(self) -> int:
        """Return the number of compared outputs."""
        return len(self._proposal.outputs)


def _is_embedded(tensor: onnx_ir.TensorProtocol) -> bool:
    """Tell whether a constant is small, or of a type that no caller can feed: packed integers."""
    return tensor.size <= _EMBED or tensor.dtype.bitwidth < 8


def name_of(value: onnx_ir.Value) -> str:
    """Return the name, which every value has after normalization."""
    assert value.name is not None
    return value.name


def _unique(values: Iterable[onnx_ir.Value]) -> list[onnx_ir.Value]:
    return list(dict.fromkeys(values))


def _read(nodes: Iterable[onnx_ir.Node]) -> Iterable[onnx_ir.Value]:
    """Yield every value the nodes read, captures of their subgraphs included."""
    for node in nodes:
        yield from (v for v in node.inputs if v is not None)
        yield from captured(node)


def _topological(nodes: Sequence[onnx_ir.Node]) -> list[onnx_ir.Node]:
    makers = {v: node for node in nodes for v in node.outputs}
    order: dict[onnx_ir.Node, None] = {}
    pending: set[onnx_ir.Node] = set()
    stack = list(reversed(nodes))
    while stack:
        node = stack[-1]
        if node in order:
            stack.pop()
            continue
        pending.add(node)
        before = [makers[v] for v in _read([node]) if v in makers and makers[v] not in order]
        before = [maker for maker in before if maker is not node]
        if any(maker in pending for maker in before):
            raise CannotRun(f"'{node.name}' depends on itself")
        if before:
            stack.extend(before)
            continue
        pending.discard(node)
        order[node] = None
        stack.pop()
    return list(order)


def _declare(name: str, value: onnx_ir.Value, *, wide: bool, shaped: bool) -> onnx.ValueInfoProto:
    if not isinstance(value.type, onnx_ir.TensorType):
        raise CannotRun(f"the type of '{value.name}' is not known")
    kind = int(value.type.dtype)
    if wide:
        kind = _FLOATS.get(kind, kind)
    shape: list[int | None] | None = None
    if shaped and value.const_value is not None:
        shape = [int(d) for d in value.const_value.shape.numpy()]
    elif value.shape is not None and not shaped:
        shape = [None for _ in value.shape]
    return helper.make_tensor_value_info(name, kind, shape)


def _embed(value: onnx_ir.Value, *, wide: bool) -> onnx.TensorProto:
    tensor = value.const_value
    assert tensor is not None
    if wide and int(tensor.dtype) in _FLOATS:
        return numpy_helper.from_array(tensor.numpy().astype(np.float64), name_of(value))
    proto = onnx_ir.serde.serialize_tensor(tensor)
    proto.name = name_of(value)
    return proto


def _widen(graph: onnx.GraphProto) -> None:
    """Turn float32 into float64 where attributes say float32 (Cast, ConstantOfShape, Constant, …)."""
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}:
            raise CannotRun("quantization has no float64 form")
        for attribute in node.attribute:
            if attribute.name in {"to", "dtype", "output_dtype", "stash_type"}:
                attribute.i = _FLOATS.get(attribute.i, attribute.i)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                if attribute.t.data_type in _FLOATS:
                    array = numpy_helper.to_array(attribute.t).astype(np.float64)
                    attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
            elif attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
                raise CannotRun("a subgraph has no float64 form")


def _constant_key(value: onnx_ir.Value) -> Hashable | None:
    return None if value.const_value is None else tensor_key(value.const_value)
