"""Take a product out of a graph: what computed it, what it read, what to write in its place."""

from collections.abc import Collection, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_op
from whet.passes.fusion.expansion import Product, uncast
from whet.passes.proposal import Builder

__all__ = ["as_type", "computed_between", "in_order", "input_read", "times"]


def computed_between(
    value: onnx_ir.Value, stops: Collection[onnx_ir.Value]
) -> tuple[onnx_ir.Node, ...]:
    """Return the nodes that compute ``value`` from ``stops`` and constants, the one that makes it first."""
    seen: dict[onnx_ir.Node, None] = {}
    waiting = [value]
    while waiting:
        at = waiting.pop()
        node = at.producer()
        if at in stops or node is None or node in seen:
            continue
        seen[node] = None
        waiting += [v for v in node.inputs if v is not None]
    return tuple(seen)


def input_read(old: Sequence[onnx_ir.Node], x: onnx_ir.Value) -> onnx_ir.Value:
    """Return ``x`` as the nodes ``old`` read it, less the casts that lose nothing."""
    read = [v for node in old if not is_op(node, "Cast") for v in node.inputs if v is not None]
    found = {_unwidened(v) for v in read if uncast(v) is x}
    return found.pop() if len(found) == 1 else x


def _unwidened(value: onnx_ir.Value) -> onnx_ir.Value:
    node = value.producer()
    source = node.inputs[0] if node is not None and is_op(node, "Cast") else None
    if source is None or value.dtype is None or uncast(value) is value or source.dtype is None:
        return value
    return _unwidened(source) if source.dtype.bitwidth < value.dtype.bitwidth else value


def as_type(x: onnx_ir.Value, dtype: onnx_ir.DataType, build: Builder) -> onnx_ir.Value:
    """Return ``x``, cast if it is of another type."""
    if x.dtype == dtype:
        return x
    return build.op("Cast", x, attributes={"to": int(dtype)})


def times(
    y: onnx_ir.Value, factors: Product, dtype: onnx_ir.DataType, build: Builder
) -> onnx_ir.Value:
    """Return ``y`` multiplied and divided by ``factors``; other powers decline."""
    for value, exponent in in_order(factors):
        if abs(exponent) != 1.0:
            raise Mismatch(f"a power {exponent:g} of '{value.name}' takes part")
        kind = "Mul" if exponent > 0 else "Div"
        y = build.op(kind, y, as_type(value, dtype, build))
    return y


def in_order(factors: Product) -> list[tuple[onnx_ir.Value, float]]:
    """Return the factors by name, the same in every run."""
    return sorted(factors, key=lambda item: item[0].name or "")
