"""Write a model as a Scan over parts of its batch: the same nodes on a few samples at a time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import dimensions, is_constant
from whet.passes.proposal import Builder, Proposal
from whet.passes.purity import has_subgraph, is_random

__all__ = ["Batch", "batch_of", "in_parts"]

_WHOLE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
"""Operators that look at all samples together."""
_OPSET = 15
"""From here on Shape returns a range of the dimensions."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """The leading dimension that inputs and outputs share."""

    symbol: str
    inputs: tuple[onnx_ir.Value, ...]
    """The inputs that are cut; the others are read whole by every part."""
    outputs: tuple[onnx_ir.Value, ...]


def batch_of(graph: onnx_ir.Graph) -> Batch:
    """Return what can be cut; raises Mismatch where samples are not apart from each other."""
    if graph.opset_imports.get("", 1) < _OPSET:
        raise Mismatch(f"opset {graph.opset_imports.get('', 1)}, {_OPSET} is needed")
    symbols = {str(_first(value)) for value in graph.outputs}
    if len(symbols) != 1 or not all(isinstance(_first(v), str) for v in graph.outputs):
        raise Mismatch("the outputs do not share a symbolic first dimension")
    symbol = symbols.pop()
    inputs = tuple(v for v in graph.inputs if not is_constant(v) and _first(v) == symbol)
    if not inputs:
        raise Mismatch(f"no input begins with '{symbol}'")
    for value in (*graph.inputs, *graph.outputs):
        if _mentions(_rest(value) if _first(value) == symbol else _sizes(value), symbol):
            raise Mismatch(f"'{value.name}' has '{symbol}' in another place than the first")
    _check_nodes(graph)
    return Batch(symbol, inputs, tuple(graph.outputs))


def _check_nodes(graph: onnx_ir.Graph) -> None:
    for value in graph.outputs:
        if value.producer() is None:
            raise Mismatch(f"the output '{value.name}' is not computed")
    for node in graph:
        if node.op_type in _WHOLE:
            raise Mismatch(f"{node.op_type} '{node.name}' looks at all samples together")
        if has_subgraph(node) or is_random(node):
            raise Mismatch(f"{node.op_type} '{node.name}' cannot be repeated for parts")


def in_parts(graph: onnx_ir.Graph, batch: Batch, size: int, build: Builder) -> Proposal:
    """Return the graph as a Scan over parts of at most ``size`` samples, all of them equally large.

    With B samples there are ``n = ceil(B / size)`` parts of ``c = ceil(B / n)``. The last sample is repeated where
    ``n c`` exceeds B, and what comes of the copies is cut off.
    """
    first = batch.inputs[0]
    count = build.op("Shape", first, attributes={"start": 0, "end": 1})
    one = build.ints(1)
    parts = _divide_up(build, count, build.ints(size), one)
    each = _divide_up(build, count, parts, one)
    last = build.op("Sub", count, one)
    total = build.op("Squeeze", build.op("Mul", parts, each))
    zero, step = (build.constant(np.asarray(k, np.int64)) for k in (0, 1))
    places = build.op("Min", build.op("Range", zero, total, step), last)
    cut = [_cut(build, value, places, parts, each) for value in batch.inputs]
    body = _body(graph, batch, build.fresh)
    found = build.ops(
        "Scan",
        cut,
        len(batch.outputs),
        attributes={
            "body": onnx_ir.AttrGraph("body", body),
            "num_scan_inputs": len(cut),
        },
    )
    joined = [_join(build, value, count) for value in found]
    old = tuple(reversed(list(graph)))
    return Proposal(
        old,
        tuple(zip(batch.outputs, joined, strict=True)),
        tuple(build.nodes),
        tuple(build.initializers),
        dict.fromkeys(build.nodes, old[-1]),
    )


def _divide_up(
    build: Builder, a: onnx_ir.Value, b: onnx_ir.Value, one: onnx_ir.Value
) -> onnx_ir.Value:
    """Return ``ceil(a / b)`` of positive integers."""
    return build.op("Div", build.op("Sub", build.op("Add", a, b), one), b)


def _cut(
    build: Builder,
    value: onnx_ir.Value,
    places: onnx_ir.Value,
    parts: onnx_ir.Value,
    each: onnx_ir.Value,
) -> onnx_ir.Value:
    """Return ``[B, …]`` as ``[parts, each, …]``."""
    rest = build.op("Shape", value, attributes={"start": 1})
    shape = build.op("Concat", parts, each, rest, attributes={"axis": 0})
    return build.op("Reshape", build.op("Gather", value, places, attributes={"axis": 0}), shape)


def _join(build: Builder, value: onnx_ir.Value, count: onnx_ir.Value) -> onnx_ir.Value:
    """Return ``[parts, each, …]`` as ``[B, …]``."""
    rest = build.op("Shape", value, attributes={"start": 2})
    shape = build.op("Concat", build.ints(-1), rest, attributes={"axis": 0})
    flat = build.op("Reshape", value, shape)
    return build.op("Slice", flat, build.ints(0), count, build.ints(0))


def _body(graph: onnx_ir.Graph, batch: Batch, fresh: Callable[[str], str]) -> onnx_ir.Graph:
    """Return a copy of the nodes that reads parts; weights and other inputs are those outside."""
    symbol = fresh(f"{batch.symbol}.part")
    copies: dict[onnx_ir.Value, onnx_ir.Value] = {}
    for value in batch.inputs:
        copies[value] = _renamed(onnx_ir.Value(), value, fresh, batch.symbol, symbol)
    nodes = [_copy(node, copies, fresh, batch.symbol, symbol) for node in graph]
    return onnx_ir.Graph(
        [copies[v] for v in batch.inputs],
        [copies[v] for v in batch.outputs],
        nodes=nodes,
        opset_imports=dict(graph.opset_imports),
        name=fresh("parts"),
    )


def _copy(
    node: onnx_ir.Node,
    copies: dict[onnx_ir.Value, onnx_ir.Value],
    fresh: Callable[[str], str],
    symbol: str,
    part: str,
) -> onnx_ir.Node:
    made = onnx_ir.Node(
        node.domain,
        node.op_type,
        _read(node.inputs, copies),
        attributes=list(node.attributes.values()),
        num_outputs=len(node.outputs),
        name=fresh(node.name or node.op_type),
    )
    made.metadata_props.update(node.metadata_props)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        copies[old] = _renamed(new, old, fresh, symbol, part)
    return made


def _read(
    inputs: Sequence[onnx_ir.Value | None], copies: Mapping[onnx_ir.Value, onnx_ir.Value]
) -> list[onnx_ir.Value | None]:
    return [None if value is None else copies.get(value, value) for value in inputs]


def _renamed(
    new: onnx_ir.Value, old: onnx_ir.Value, fresh: Callable[[str], str], symbol: str, part: str
) -> onnx_ir.Value:
    """Give ``new`` a fresh name, and the type and shape of ``old`` with fewer samples."""
    new.name = fresh(old.name) if old.name else ""
    new.type = old.type
    sizes = dimensions(old)
    if sizes is not None:
        new.shape = onnx_ir.Shape([part if s == symbol else _local(s, symbol) for s in sizes])
    return new


def _local(size: int | str | None, symbol: str) -> int | str | None:
    """Return a dimension; one that is computed from the batch is not known."""
    return None if isinstance(size, str) and symbol in size else size


def _sizes(value: onnx_ir.Value) -> tuple[int | str | None, ...]:
    found = dimensions(value)
    if found is None:
        raise Mismatch(f"the shape of '{value.name}' is not known")
    return found


def _first(value: onnx_ir.Value) -> int | str | None:
    sizes = _sizes(value)
    return sizes[0] if sizes else None


def _rest(value: onnx_ir.Value) -> tuple[int | str | None, ...]:
    return _sizes(value)[1:]


def _mentions(sizes: Sequence[int | str | None], symbol: str) -> bool:
    return any(isinstance(size, str) and symbol in size for size in sizes)
