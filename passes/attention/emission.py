"""Spell an expression as nodes of the graph, over the axes of a query, of a key, or of both."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.passes.attention.call import AttentionCall
from whet.passes.attention.expression import (
    BATCH,
    HEAD,
    KEY,
    QUERY,
    Apply,
    Expression,
    Index,
    Last,
    Leaf,
    Number,
    Sum,
    apply,
    axes_of,
)
from whet.passes.attention.reading import is_plain
from whet.passes.attention.separation import Product
from whet.passes.proposal import Builder

__all__ = ["Emitter"]

_INT64 = onnx_ir.DataType.INT64
Layout = tuple[int | None, ...]
"""The axis that each dimension of a tensor runs over; None for a dimension of size 1."""


class Emitter:
    """Makes the nodes of one proposal; equal parts are made once."""

    def __init__(self, build: Builder, call: AttentionCall, dtype: onnx_ir.DataType) -> None:
        """Take sizes from the operands of ``call``; results are of ``dtype``."""
        self._build = build
        self._sources = {
            BATCH: (call.q, 0),
            HEAD: (call.q, 1),
            QUERY: (call.q, 2),
            KEY: (call.k, 2),
        }
        self._dtype = dtype
        self._made: dict[tuple[Expression, Layout], onnx_ir.Value] = {}
        self._columns: dict[int, int] = {}

    def bias(self, body: Expression) -> onnx_ir.Value:
        """Return a tensor that broadcasts to ``[batch, heads, queries, keys]``."""
        return self._emit(body, (BATCH, HEAD, QUERY, KEY))

    def mask(self, body: Expression) -> onnx_ir.Value:
        """Return the same, repeated over queries: ONNX Runtime's kernel does not broadcast over them."""
        value = self.bias(body)
        if QUERY in axes_of(body):
            return value
        one = self._build.ints(1)
        sizes = (one, one, self._size(QUERY), one)
        shape = self._build.op("Concat", *sizes, attributes={"axis": 0})
        return self._build.op("Expand", value, shape)

    def zero_unless_any(
        self, conditions: Sequence[Expression], result: onnx_ir.Value
    ) -> onnx_ir.Value:
        """Return ``result [batch, heads, queries, …]``, zero where no key meets the conditions, which are of keys.

        That is what Attention is defined to give for minus infinity everywhere.
        """
        build, dtype = self._build, self._dtype
        both = reduce(lambda a, b: apply("And", (a, b), onnx_ir.DataType.BOOL), conditions)
        seen = build.op("Cast", self.bias(both), attributes={"to": int(dtype)})
        most = build.op("ReduceMax", seen, build.ints(-1), attributes={"keepdims": 1})
        some = build.op("Cast", most, attributes={"to": int(onnx_ir.DataType.BOOL)})
        return build.op("Where", some, result, build.constant(np.asarray(0, dtype.numpy())))

    def factors(
        self, terms: tuple[Product, ...]
    ) -> tuple[list[onnx_ir.Value], list[onnx_ir.Value]]:
        """Return columns that broadcast to ``[batch, heads, queries, c]`` and to ``[batch, heads, keys, c]``."""
        left = [self._column(term, term.left, QUERY) for term in terms]
        right = [self._column(term, term.right, KEY) for term in terms]
        return left, right

    def _column(self, term: Product, part: Expression, place: int) -> onnx_ir.Value:
        if term.axis is not None:
            self._columns[term.axis] = term.size
        value = self._as_float(part, (BATCH, HEAD, place, term.axis))
        return self._widened(value, term.size) if term.axis is not None else value

    def _as_float(self, body: Expression, layout: Layout) -> onnx_ir.Value:
        value = self._emit(body, layout)
        if body.dtype == self._dtype:
            return value
        return self._build.op("Cast", value, attributes={"to": int(self._dtype)})

    def _widened(self, column: onnx_ir.Value, size: int) -> onnx_ir.Value:
        """Repeat a column that is the same at every position of a sum."""
        return self._build.op("Expand", column, self._build.ints(1, 1, 1, size))

    def _size(self, axis: int) -> onnx_ir.Value:
        """Return the size of an axis as a vector of one element."""
        return self._dimension(*self._sources[axis])

    def _dimension(self, source: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        return self._build.op("Shape", source, attributes={"start": axis, "end": axis + 1})

    def _emit(self, body: Expression, layout: Layout) -> onnx_ir.Value:
        key = (body, layout)
        if key not in self._made:
            self._made[key] = self._spell(body, layout)
        return self._made[key]

    def _spell(self, body: Expression, layout: Layout) -> onnx_ir.Value:
        match body:
            case Number(value, dtype):
                return self._build.constant(np.full((1,) * len(layout), value, dtype.numpy()))
            case Index(axis):
                return self._index(axis, layout)
            case Last(axis):
                size = self._placed(self._size(axis), (None,), layout)
                return self._build.op("Sub", size, self._build.constant(np.asarray(1, np.int64)))
            case Leaf():
                return self._leaf(body, layout)
            case Sum():
                return self._sum(body, layout)
            case Apply(op, operands, dtype):
                values = [self._emit(part, layout) for part in operands]
                attributes: Mapping[str, int] = {"to": int(dtype)} if op == "Cast" else {}
                return self._build.op(op, *values, attributes=attributes)

    def _index(self, axis: int, layout: Layout) -> onnx_ir.Value:
        build = self._build
        if axis in self._columns:
            positions = build.constant(np.arange(self._columns[axis], dtype=np.int64))
        else:
            zero, one = (build.constant(np.asarray(k, np.int64)) for k in (0, 1))
            end = build.op("Squeeze", self._size(axis))
            positions = build.op("Range", zero, end, one)
        return self._placed(positions, (axis,), layout)

    def _leaf(self, leaf: Leaf, layout: Layout) -> onnx_ir.Value:
        if not is_plain(leaf.at):
            raise Mismatch(f"'{leaf.tensor.name}' is read at computed places")
        axes = tuple(place.axis if isinstance(place, Index) else None for place in leaf.at)
        tensor = leaf.tensor
        if tensor.const_value is not None and tensor.graph is None:
            tensor = self._build.constant(tensor.const_value.numpy(), tensor.name or "")
        return self._placed(tensor, axes, layout)

    def _placed(self, value: onnx_ir.Value, axes: Layout, layout: Layout) -> onnx_ir.Value:
        """Bring a tensor over ``axes`` into the layout: drop dimensions of size 1, permute, insert them again."""
        build = self._build
        gone = [k for k, axis in enumerate(axes) if axis is None]
        kept = [axis for axis in axes if axis is not None]
        missing = [axis for axis in kept if axis not in layout]
        if missing:
            raise Mismatch(f"'{value.name}' runs over an axis that is not there")
        if gone:
            value = build.op("Squeeze", value, build.ints(*gone))
        order = sorted(range(len(kept)), key=lambda k: layout.index(kept[k]))
        if order != list(range(len(kept))):
            value = build.op("Transpose", value, attributes={"perm": order})
        new = [k for k, axis in enumerate(layout) if axis is None or axis not in kept]
        return build.op("Unsqueeze", value, build.ints(*new)) if new else value

    def _sum(self, body: Sum, layout: Layout) -> onnx_ir.Value:
        self._columns[body.axis] = body.size
        inner = self._emit(body.body, (*layout, body.axis))
        axis = self._build.ints(-1)
        return self._build.op("ReduceSum", inner, axis, attributes={"keepdims": 0})
