"""What is known about shapes, and about the integers that a model computes from them."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.content_rules import CONTENT_RULES, INTEGERS, LONGEST, Content, Shape
from whet.analysis.shape_rules import SHAPE_RULES
from whet.analysis.size_arithmetic import Expression, Size, parse_size
from whet.ir.values import constant, dimensions, is_constant
from whet.passes.base import Change
from whet.passes.workbench import Context

__all__ = ["Content", "KnownSizes", "Sizes"]


class KnownSizes:
    """Shapes and contents of the values of the main graph, propagated once in graph order."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        """Propagate."""
        self._given = {s for v in graph.inputs for s in dimensions(v) or () if isinstance(s, str)}
        self._contents: dict[onnx_ir.Value, Content] = {}
        self._shapes: dict[onnx_ir.Value, Shape] = {}
        self._equal: dict[str, Size] = {}
        for node in graph:
            if node.domain in ("", "ai.onnx"):
                self._visit(node)

    def content(self, value: onnx_ir.Value | None) -> Content | None:
        """Return what is known about the elements of an integer scalar or vector."""
        if value is None:
            return None
        return self._constant(value) if is_constant(value) else self._contents.get(value)

    def shape(self, value: onnx_ir.Value | None) -> Shape | None:
        """Return the shape: numbers, expressions over symbols, None for what is not known."""
        if value is None or value in self._shapes:
            return None if value is None else self._shapes[value]
        sizes = dimensions(value)
        return None if sizes is None else tuple(map(self._size, sizes))

    def _size(self, size: int | str | None) -> Size | None:
        if size is None or isinstance(size, int):
            return size
        return self._equal[size] if size in self._equal else parse_size(size)

    def _constant(self, value: onnx_ir.Value) -> Content | None:
        tensor = value.const_value
        if tensor is None or tensor.dtype not in INTEGERS or tensor.size > LONGEST:
            return None
        array = constant(value)
        if array is None or array.ndim > 1:
            return None
        return Content(tuple(int(item) for item in array.reshape(-1)), array.ndim == 0)

    def _visit(self, node: onnx_ir.Node) -> None:
        result = node.outputs[0]
        if node.op_type in SHAPE_RULES and not _is_settled(result):
            sizes = SHAPE_RULES[node.op_type](node, self)
            if sizes is not None:
                self._refine(result, sizes)
        rule = CONTENT_RULES.get(node.op_type)
        if rule is None or (result.dtype is not None and result.dtype not in INTEGERS):
            return
        found = rule(node, self)
        if found is not None and len(found.items) <= LONGEST:
            self._contents[result] = found

    def _refine(self, result: onnx_ir.Value, sizes: Shape) -> None:
        """Keep sizes that a rule found, and what they say about anonymous symbols."""
        noted = dimensions(result)
        if noted is None or len(noted) != len(sizes):
            self._shapes[result] = sizes
            return
        for symbol, size in zip(noted, sizes, strict=True):
            self._note_equal(symbol, size)
        pairs = zip(noted, sizes, strict=True)
        self._shapes[result] = tuple(self._size(n) if s is None else s for n, s in pairs)

    def _note_equal(self, symbol: int | str | None, size: Size | None) -> None:
        if not isinstance(symbol, str) or size is None or symbol in self._given:
            return
        if symbol not in self._equal and not _mentions(size, symbol):
            self._equal[symbol] = size


def _mentions(size: Size, symbol: str) -> bool:
    return isinstance(size, Expression) and symbol in str(size)


def _is_settled(value: onnx_ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


@dataclasses.dataclass(frozen=True)
class Sizes(Analysis[KnownSizes]):
    """Propagate shapes and the integers computed from them."""

    depends: ClassVar[Change] = Change.OPS

    def measure(self, model: onnx_ir.Model, context: Context) -> KnownSizes:
        """Return what is known now."""
        return KnownSizes(model.graph)
