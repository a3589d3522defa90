"""Remove Expand nodes that broadcasting makes superfluous."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.content_rules import Shape
from whet.analysis.shape_rules import broadcast
from whet.analysis.sizes import KnownSizes, Sizes
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

_BROADCASTING = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    | {"Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"}
)


@dataclasses.dataclass(frozen=True)
class EliminateExpands(Pass):
    """Replace ``Expand(x, s)`` by ``x`` where it keeps the shape, or where every reader broadcasts ``x`` just as well.

    A reader broadcasts when it works by elements and another operand of it has every size that the expansion gave.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Sizes,)

    def apply(self, work: Workbench) -> None:
        """Visit every Expand."""
        known = work.analyses.get(Sizes())
        for node in work.nodes("Expand"):
            x, wide = node.inputs[0], _expanded(node, known)
            if x is None or wide is None:
                continue
            if _equal(known.shape(x), wide):
                work.coverage.matched += 1
                work.propose(Proposal((node,), ((node.outputs[0], x),)))
            elif not node.outputs[0].is_graph_output():
                for reader in dict.fromkeys(use.node for use in node.outputs[0].uses()):
                    _bypass(node, reader, wide, known, work)


def _expanded(node: onnx_ir.Node, known: KnownSizes) -> Shape | None:
    """Return the shape of the result: broadcast of the operand's shape and the target."""
    x, content = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if x is None or content is None or content.scalar:
        return known.shape(node.outputs[0])
    return broadcast(x, content.items)


def _equal(one: Shape | None, other: Shape) -> bool:
    return one is not None and None not in one and one == other


def _bypass(
    node: onnx_ir.Node, reader: onnx_ir.Node, wide: Shape, known: KnownSizes, work: Workbench
) -> None:
    """Let the reader read the operand of the Expand."""
    x, old = node.inputs[0], node.outputs[0]
    elementwise = reader.domain in ("", "ai.onnx") and reader.op_type in _BROADCASTING
    if x is None or not elementwise or reader.graph is not node.graph:
        return
    work.coverage.matched += 1
    narrow = known.shape(x)
    others = [known.shape(v) for v in reader.inputs if v is not None and v is not old]
    found = [shape for shape in others if shape is not None]
    if narrow is None or len(found) < len(others) or not _covers(found, narrow, wide):
        work.decline(node, f"{reader.op_type} '{reader.name}' has no operand of the expanded shape")
        return
    build = work.builder(reader)
    inputs = [x if value is old else value for value in reader.inputs]
    new = build.op(reader.op_type, *inputs, attributes=dict(reader.attributes))
    pairs = ((reader.outputs[0], new),)
    work.propose(Proposal((reader, node), pairs, tuple(build.nodes), tuple(build.initializers)))


def _covers(others: list[Shape], narrow: Shape, wide: Shape) -> bool:
    """Tell whether the other operands give every size that ``narrow`` lacks of ``wide``."""
    for back in range(1, len(wide) + 1):
        size = wide[-back]
        if size is None or (back <= len(narrow) and narrow[-back] == size):
            if size is None:
                return False
            continue
        if not any(back <= len(shape) and shape[-back] == size for shape in others):
            return False
    return True
