"""The summands of an attention's bias: constant tables, and what is computed.

A summand is constant if it follows from constants alone (also beyond the size up to which constants are folded), or
from constants that are only broadcast: ``Expand`` to a free batch, or to windows that then become part of the batch.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant, constant_ints, dimensions, is_op, rank
from whet.passes.attention.low_rank import Real
from whet.passes.canonical.constant_evaluation import evaluate
from whet.passes.purity import is_deterministic

__all__ = ["HIDES", "Bias", "Summand", "read_bias", "upstream"]

HIDES = -1e4
"""Values up to this one shut a key out altogether, whatever is added to them."""

_REACH = 64
"""A summand that takes more nodes than this is not evaluated."""
_ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal,
    "Where": np.where,
}
"""They give the same whether their operands are broadcast before or after."""


@dataclasses.dataclass(frozen=True)
class Summand:
    """One summand."""

    value: onnx_ir.Value
    table: Real | None
    """``[period, heads or 1, queries or 1, keys or 1]``: sample b gets matrix b modulo the period. None if computed.

    False is minus infinity.
    """
    fill: float | None = None
    """If there is one, the value is a condition: the summand is 0 where it holds and ``fill`` elsewhere."""


@dataclasses.dataclass(frozen=True)
class Bias:
    """The summands of a bias, and the nodes that make and add them (readers first)."""

    terms: tuple[Summand, ...]
    nodes: tuple[onnx_ir.Node, ...]


@dataclasses.dataclass
class _Reader:
    model: onnx_ir.Model
    terms: list[Summand] = dataclasses.field(default_factory=list[Summand])
    nodes: dict[onnx_ir.Node, None] = dataclasses.field(default_factory=dict[onnx_ir.Node, None])

    def read(self, value: onnx_ir.Value) -> None:
        table = self._tiled(value)
        if table is None:
            found = self._broadcast(value)
            table = None if found is None else _rank4(found)
        node = value.producer()
        if table is not None:
            self.terms.append(Summand(value, _floats(table)))
        elif is_op(node, "Add"):
            assert node is not None
            self.nodes[node] = None
            for operand in node.inputs:
                assert operand is not None
                self.read(operand)
        elif is_op(node, "Where") and (fill := self._fill(value)) is not None:
            assert node is not None
            condition, body = node.inputs[:2]
            assert condition is not None
            assert body is not None
            self.nodes[node] = None
            self.terms.append(Summand(condition, None, fill))
            self.read(body)
        else:
            self.terms.append(Summand(value, None))

    def _fill(self, value: onnx_ir.Value) -> float | None:
        """Return what a Where puts in place of a summand, if that shuts keys out and the summand is no number."""
        node = value.producer()
        assert node is not None
        body, fill = (None if v is None else self._broadcast(v) for v in node.inputs[1:3])
        if fill is None or fill.size != 1 or (body is not None and body.size == 1):
            return None
        low = float(fill.reshape(-1)[0])
        return low if low <= HIDES else None

    def _broadcast(self, value: onnx_ir.Value) -> Array | None:
        """Return a constant that broadcasts to the value, of the same rank; None if it is not one."""
        found = constant(value)
        node = value.producer()
        if found is not None or node is None:
            return found
        found = self._look_through(value, node)
        if found is None:
            return self._evaluate(value)
        self.nodes[node] = None
        missing = (rank(value) or found.ndim) - found.ndim
        return found.reshape((1,) * missing + found.shape)

    def _look_through(self, value: onnx_ir.Value, node: onnx_ir.Node) -> Array | None:
        if is_op(node, "Identity", "Expand"):
            return None if node.inputs[0] is None else self._broadcast(node.inputs[0])
        if is_op(node, "Cast"):
            inner = None if node.inputs[0] is None else self._broadcast(node.inputs[0])
            kind = onnx_ir.DataType(attribute_int(node, "to", 1)).numpy()
            return None if inner is None else inner.astype(kind)
        operation = _ELEMENTWISE.get(node.op_type) if is_op(node, node.op_type) else None
        if operation is None:
            return None
        operands = [None if v is None else self._broadcast(v) for v in node.inputs]
        if any(operand is None for operand in operands):
            return None
        with np.errstate(all="ignore"):
            result = operation(*operands)
        return result if value.dtype is None else result.astype(value.dtype.numpy())

    def _evaluate(self, value: onnx_ir.Value) -> Array | None:
        """Return what follows from constants alone."""
        found = upstream(value, lambda leaf: constant(leaf) is not None)
        if found is None:
            return None
        result = evaluate(self.model, found[::-1], [value], prove=False)[value].array
        if result is not None:
            self.nodes.update(dict.fromkeys(found))
        return result

    def _tiled(self, value: onnx_ir.Value) -> Array | None:
        """Read a table of windows that is repeated for every image: ``[windows * images, heads, n, m]``."""
        node = value.producer()
        if node is None or not is_op(node, "Reshape", "Tile"):
            return None
        source = node.inputs[0]
        if source is None:
            return None
        table = constant(source) if node.op_type == "Tile" else self._broadcast(source)
        wanted = dimensions(value)
        if table is None or wanted is None or len(wanted) != 4:
            return None
        if node.op_type == "Tile":
            repeats = constant_ints(node.inputs[1])
            tiled = table.ndim == 4 and wanted[1:] == table.shape[1:]
            found = table if tiled and (repeats is None or repeats[1:] == (1, 1, 1)) else None
        else:
            found = _merged(table, dimensions(source), wanted)
        if found is not None:
            self.nodes[node] = None
        return found


def _merged(
    table: Array,
    before: tuple[int | str | None, ...] | None,
    after: tuple[int | str | None, ...],
) -> Array | None:
    """Return the windows of ``[1, windows, heads, n, m]``, broadcast over images and then merged with them."""
    if before is None or len(before) != 5 or table.ndim != 5 or table.shape[0] != 1:
        return None
    same = before[2:] == after[1:] and before[1] == table.shape[1]
    return table[0] if same and None not in before[2:] else None


def _floats(table: Array) -> Real:
    if table.dtype == np.bool_:
        return np.where(table, np.float32(0), np.float32(-np.inf))
    return table.astype(np.float32, copy=False)


def _rank4(table: Array) -> Array | None:
    return table.reshape((1,) * (4 - table.ndim) + table.shape) if table.ndim <= 4 else None


def upstream(
    value: onnx_ir.Value, known: Callable[[onnx_ir.Value], bool]
) -> tuple[onnx_ir.Node, ...] | None:
    """Return the nodes that compute ``value`` from ``known`` values, readers first; None if others are needed."""
    wanted: dict[onnx_ir.Node, None] = {}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None or not is_deterministic(node) or len(wanted) >= _REACH:
            return None
        if node in wanted:
            continue
        wanted[node] = None
        waiting += [v for v in node.inputs if v is not None and not known(v)]
    return tuple(_readers_first(wanted))


def _readers_first(nodes: dict[onnx_ir.Node, None]) -> list[onnx_ir.Node]:
    order: dict[onnx_ir.Node, None] = {}

    def visit(node: onnx_ir.Node) -> None:
        for value in node.inputs:
            maker = None if value is None else value.producer()
            if maker in nodes and maker not in order:
                assert maker is not None
                visit(maker)
        order[node] = None

    for node in nodes:
        if node not in order:
            visit(node)
    return list(order)[::-1]


def read_bias(model: onnx_ir.Model, mask: onnx_ir.Value) -> Bias:
    """Take a bias apart; raises Mismatch if it is not of float32 or booleans."""
    if mask.dtype not in {onnx_ir.DataType.FLOAT, onnx_ir.DataType.BOOL}:
        raise Mismatch(f"the bias '{mask.name}' is of type {mask.dtype}, not FLOAT or BOOL")
    reader = _Reader(model)
    reader.read(mask)
    return Bias(tuple(reader.terms), tuple(reader.nodes))
