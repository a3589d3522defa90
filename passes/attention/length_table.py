"""Bias tables that a graph computes from the length alone: relative buckets, slices of a larger table."""

import dataclasses

import numpy as np
import onnx
import onnx_ir
from onnx import helper

from whet.errors import Mismatch
from whet.ir.bindings import Binding, evaluate_dimension
from whet.ir.execute import CannotRun, Executor
from whet.ir.values import Array, attribute_int, constant, dimensions, is_op
from whet.passes.attention.bias_terms import upstream
from whet.passes.attention.low_rank import Real

__all__ = ["LengthTable", "read_length_table"]

_PROBE = 12


@dataclasses.dataclass(frozen=True)
class LengthTable:
    """A value ``[..., N, N]`` that depends on nothing but the length N."""

    value: onnx_ir.Value
    symbol: str
    nodes: tuple[onnx_ir.Node, ...]
    opsets: tuple[tuple[str, int], ...]
    longest: int | None
    """The size of the constant that it is cut from; None if it is computed for any length."""

    def at(self, length: int) -> Real:
        """Return ``[1, heads or 1, length, length]``; raises Mismatch if it does not come out so."""
        proto, feeds = self._model({self.symbol: length})
        try:
            table = Executor(proto).run(feeds)[0]
        except CannotRun as error:
            raise Mismatch(f"the table cannot be computed at length {length}: {error}") from error
        if table.ndim > 4 or table.shape[-2:] != (length, length):
            shape = list(table.shape)
            raise Mismatch(f"at length {length} the table has shape {shape}")
        return table.reshape((1,) * (4 - table.ndim) + table.shape).astype(np.float32)

    def probe(self) -> Real:
        """Return the table at a small length."""
        return self.at(_PROBE if self.longest is None else min(_PROBE, self.longest))

    def corner_of(self, table: Real) -> bool:
        """Tell whether shorter tables are the corners of longer ones: the entries depend on the positions only."""
        small = self.probe()
        size = min(small.shape[-1], table.shape[-1])
        scale = float(np.abs(small[np.isfinite(small)]).max(initial=1e-30))
        with np.errstate(invalid="ignore"):
            same = np.isclose(small[..., :size, :size], table[..., :size, :size], 0, 1e-6 * scale)
        return bool(same.all())

    def _model(self, binding: Binding) -> tuple[onnx.ModelProto, dict[str, Array]]:
        graph = onnx.GraphProto(name="table")
        feeds: dict[str, Array] = {}
        made = {v for node in self.nodes for v in node.outputs}
        for value in dict.fromkeys(v for node in self.nodes for v in node.inputs if v is not None):
            if value in made:
                continue
            array = constant(value)
            if array is None:
                array = _shape(value, binding)
            name = value.name or ""
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
            feeds[name] = array
        graph.node.extend(onnx_ir.serde.serialize_node(node) for node in reversed(self.nodes))
        graph.output.append(onnx.ValueInfoProto(name=self.value.name or ""))
        imports = [helper.make_opsetid(d, v) for d, v in self.opsets]
        return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


def _shape(value: onnx_ir.Value, binding: Binding) -> Array:
    """Return what ``Shape`` gives when every other free dimension is one."""
    node = value.producer()
    source = None if node is None else dimensions(node.inputs[0])
    if node is None or source is None:
        raise Mismatch(f"the shape of what '{value.name}' measures is not known")
    sizes = [evaluate_dimension(size, binding) for size in source]
    start, end = attribute_int(node, "start", 0), attribute_int(node, "end", len(source))
    return np.asarray([1 if size is None else size for size in sizes], np.int64)[start:end]


def read_length_table(
    model: onnx_ir.Model, value: onnx_ir.Value, symbol: str | None
) -> LengthTable | None:
    """Read a value that depends on the free length ``symbol`` only; None if it depends on data, or there is none."""
    if symbol is None or value.dtype != onnx_ir.DataType.FLOAT:
        return None
    nodes = upstream(value, _is_given)
    if nodes is None:
        return None
    opsets = tuple(sorted(model.graph.opset_imports.items()))
    return LengthTable(value, symbol, nodes, opsets, _longest(nodes))


def _is_given(value: onnx_ir.Value) -> bool:
    return constant(value) is not None or is_op(value.producer(), "Shape")


def _longest(nodes: tuple[onnx_ir.Node, ...]) -> int | None:
    """Return the size of the stored square table that is sliced, if there is one."""
    for node in nodes:
        stored = constant(node.inputs[0]) if is_op(node, "Slice") else None
        if stored is not None and stored.ndim >= 2 and stored.shape[-1] == stored.shape[-2] > 1:
            return int(stored.shape[-1])
    return None
