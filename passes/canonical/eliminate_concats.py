"""Remove concatenations of one tensor, empty operands, and concatenations inside others."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir

from whet.ir.values import attribute_int, dimensions, is_op, rank
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateConcats(Rewrite):
    """Replace ``Concat(x)`` and ``Concat(x, empty)`` by ``x``, ``Concat(Concat(a, b), c)`` by ``Concat(a, b, c)``.

    An operand is empty when its size along the axis is known to be 0; one operand always stays. The inner Concat must
    have the same axis and no other reader.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Concat", var("first"), name="concat", open=True),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the list of operands can be written shorter or flatter."""
        return len(found.root.inputs) == 1 or _operands(found.root) != list(found.root.inputs)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the only operand, or one concatenation of all."""
        operands = _operands(found.root)
        found.nodes.extend(_inner(found.root))
        if len(operands) == 1:
            return operands[0]
        return build.op("Concat", *operands, attributes={"axis": _axis(found.root)})


def _axis(node: onnx_ir.Node) -> int:
    return attribute_int(node, "axis", 1)


def _operands(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    inner = _inner(node)
    flat: list[onnx_ir.Value] = []
    for value in node.inputs:
        if value is not None:
            producer = value.producer()
            flat.extend(
                _inputs(producer) if producer is not None and producer in inner else [value]
            )
    kept = [value for value in flat if not _is_empty(value, _axis(node))]
    return kept or flat[:1]


def _inputs(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    yield from (value for value in node.inputs if value is not None)


def _inner(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    """Return the concatenations along the same axis that only this one reads."""
    found: list[onnx_ir.Node] = []
    for value in _inputs(node):
        producer = value.producer()
        if producer is None or not is_op(producer, "Concat") or producer.graph is not node.graph:
            continue
        sole = len(value.uses()) == 1 and not value.is_graph_output()
        if sole and _same_axis(producer, node, rank(value)):
            found.append(producer)
    return found


def _same_axis(one: onnx_ir.Node, other: onnx_ir.Node, rank: int | None) -> bool:
    first, second = _axis(one), _axis(other)
    return first == second or (rank is not None and first % rank == second % rank)


def _is_empty(value: onnx_ir.Value, axis: int) -> bool:
    sizes = dimensions(value)
    return sizes is not None and -len(sizes) <= axis < len(sizes) and sizes[axis] == 0
