"""How the weights of a layer are spread before and after, in the same bins."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import helper

from whet.ir.execute import CannotRun, Executor, newest_ir_version
from whet.ir.values import Array, constant, is_constant

__all__ = ["Histogram", "find_histogram", "histogram"]

_BINS = 64
_SEEN = 1 << 20
"""Of larger weights every so manieth element is counted, so that about as many are."""
_CODES = {
    "DynamicQuantizeMatMul": (1, 2, 3),
    "MatMulIntegerToFloat": (1, 3, 5),
    "QLinearConv": (3, 4, 5),
    "QLinearMatMul": (3, 4, 5),
    "QGemm": (3, 4, 5),
}
"""Operators that read integers: the places of codes, scale and zero point."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts in equal bins from ``low`` to ``high``."""

    site: str
    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    """None where the result has no such weight that could be decoded."""
    distinct: int | None
    """Different values after, of those that were counted."""


def histogram(site: str, before: Array, after: Array | None) -> Histogram:
    """Count both in the range of the former; values of the latter beyond it count at the ends."""
    step = max(1, before.size // _SEEN)
    old = before.reshape(-1)[::step].astype(np.float64)
    low, high = float(old.min()), float(old.max())
    if low == high:
        high = low + max(abs(low), 1.0) * 1e-6
    new = None if after is None else after.reshape(-1)[::step].astype(np.float64)
    return Histogram(
        site,
        low,
        high,
        _count(old, low, high),
        None if new is None else _count(new, low, high),
        None if new is None else len(np.unique(new)),
    )


def _count(values: Array, low: float, high: float) -> tuple[int, ...]:
    found, _ = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))
    return tuple(int(n) for n in found)


def find_histogram(source: onnx_ir.Model, result: onnx_ir.Model, site: str) -> Histogram | None:
    """Return the histogram of a changed layer; None where its weight in the source is not found."""
    before = next(_weights(source, site), None)
    if before is None or not before.size or not np.isfinite(before).all():
        return None
    decoded = (array for array in _decoded(result, site) if array.size == before.size)
    after = next(decoded, None)
    return histogram(site, before, after if after is None or np.isfinite(after).all() else None)


def _named(model: onnx_ir.Model, site: str) -> list[onnx_ir.Node]:
    """Return the node of that name, or those that were made from it: names get numbers behind a point."""
    exact = [node for node in model.graph if node.name == site]
    return exact or [n for n in model.graph if _stem(n.name or "") == _stem(site)]


def _stem(name: str) -> str:
    return re.sub(r"(\.\d+)+$", "", name)


def _weights(model: onnx_ir.Model, site: str) -> Iterator[Array]:
    for node in _named(model, site):
        for value in node.inputs:
            array = constant(value)
            if array is not None and array.dtype.kind == "f" and array.ndim > 1:
                yield array
            elif array is None and value is not None:
                yield from _computed(model, value)


def _decoded(model: onnx_ir.Model, site: str) -> Iterator[Array]:
    """Yield what the layer multiplies with: stored floats, constants that are decoded, codes with their scales."""
    for node in (n for n in model.graph if _stem(n.name or "") == _stem(site)):
        if node.op_type in _CODES:
            found = _from_codes(node, *_CODES[node.op_type])
        elif node.op_type == "MatMulInteger":
            found = _from_product(node)
        else:
            yield from _multiplied(model, node)
            continue
        if found is not None:
            yield found


def _multiplied(model: onnx_ir.Model, node: onnx_ir.Node) -> Iterator[Array]:
    for value in node.inputs[1:2]:
        array = constant(value)
        if array is not None and array.dtype.kind == "f":
            yield array
        elif value is not None and array is None:
            yield from _computed(model, value)


def _from_product(node: onnx_ir.Node) -> Array | None:
    """Decode the codes of a MatMulInteger: their scale is a factor of the Mul behind the Cast."""
    codes = constant(node.inputs[1])
    zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    for cast in node.outputs[0].consumers():
        for product in cast.outputs[0].consumers():
            factors = [v for v in product.inputs if v is not None and v is not cast.outputs[0]]
            makers = [v.producer() for v in factors]
            factors += [
                v for maker in makers if maker is not None for v in maker.inputs if v is not None
            ]
            scale = next((a for v in factors if (a := constant(v)) is not None), None)
            if codes is not None and scale is not None and scale.size in (1, codes.shape[-1]):
                offset = 0 if zero is None else zero.astype(np.float32)
                return np.asarray(
                    (codes.astype(np.float32) - offset) * scale.astype(np.float32).reshape(-1)
                )
    return None


def _from_codes(node: onnx_ir.Node, codes: int, scale: int, zero: int) -> Array | None:
    parts = [constant(v) for v in node.inputs]
    parts += [None] * (zero + 1 - len(parts))
    integers, steps, offset = parts[codes], parts[scale], parts[zero]
    if integers is None or steps is None:
        return None
    axis = 0 if node.op_type == "QLinearConv" else -1
    shape = [1] * integers.ndim
    if steps.size > 1:
        shape[axis] = steps.size
    moved = integers.astype(np.float32)
    if offset is not None:
        moved = moved - offset.astype(np.float32).reshape(shape if offset.size > 1 else ())
    return np.asarray(moved * steps.astype(np.float32).reshape(shape if steps.size > 1 else ()))


def _computed(model: onnx_ir.Model, value: onnx_ir.Value) -> Iterator[Array]:
    """Yield a value that is computed from constants alone."""
    nodes = _behind(value)
    if not nodes:
        return
    graph = onnx.GraphProto(name="decode")
    graph.node.extend(onnx_ir.serde.serialize_node(node) for node in nodes)
    graph.output.append(onnx.ValueInfoProto(name=value.name))
    for fixed in dict.fromkeys(v for node in nodes for v in node.inputs if v is not None):
        if fixed.const_value is not None and fixed.producer() is None:
            tensor = onnx_ir.serde.serialize_tensor(fixed.const_value)
            tensor.name = fixed.name or ""
            graph.initializer.append(tensor)
    opsets = [helper.make_opsetid(d, v) for d, v in sorted(model.graph.opset_imports.items())]
    version = min(model.ir_version, newest_ir_version())
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    try:
        (found,) = Executor(proto).run({})
    except (CannotRun, ValueError):
        return
    if found.dtype.kind == "f":
        yield found


def _behind(value: onnx_ir.Value) -> Sequence[onnx_ir.Node]:
    """Return the nodes that compute a value, in order; none if they read anything but constants."""
    found: dict[onnx_ir.Node, None] = {}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        found.pop(node, None)
        found[node] = None
        for read in (v for v in node.inputs if v is not None):
            if read.producer() is None and not is_constant(read):
                return ()
            waiting.append(read)
    return tuple(reversed(found))
