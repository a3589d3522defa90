"""Remove masks that mask nothing."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.sizes import KnownSizes, Sizes
from whet.ir.values import is_op
from whet.passes.attention.uniform import uniform
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

_MASK = 3
_DEPTH = 6


@dataclasses.dataclass(frozen=True)
class DropNeutralMask(Pass):
    """Drop the mask of an ``Attention`` if it is zero, or true, everywhere, whatever the sizes and the inputs are.

    Of a sum of masks, and of several conditions that must all hold, the neutral ones are dropped.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Sizes,)

    def apply(self, work: Workbench) -> None:
        """Visit every Attention that has a mask."""
        known = work.analyses.get(Sizes())
        for node in work.nodes("Attention"):
            mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
            if mask is not None and is_op(node, "Attention"):
                _visit(node, mask, known, work)


def _visit(node: onnx_ir.Node, mask: onnx_ir.Value, known: KnownSizes, work: Workbench) -> None:
    passed: list[onnx_ir.Node] = []
    rest = _rest(mask, passed, _DEPTH)
    if rest is mask:
        return
    work.coverage.matched += 1
    if rest is not None and not _fits(rest, mask, known):
        work.decline(
            node, f"without its neutral part the mask '{mask.name}' has fewer axes or keys"
        )
        return
    build = work.builder(node)
    inputs = [*node.inputs[:_MASK], rest, *node.inputs[_MASK + 1 :]]
    while inputs[-1] is None:
        inputs.pop()
    made = build.ops(node.op_type, inputs, len(node.outputs), attributes=dict(node.attributes))
    pairs = tuple(
        (old, new)
        for old, new in zip(node.outputs, made, strict=True)
        if old.uses() or old.is_graph_output()
    )
    work.propose(
        Proposal(
            tuple(dict.fromkeys((node, *passed))),
            pairs,
            tuple(build.nodes),
            tuple(build.initializers),
        )
    )


def _rest(mask: onnx_ir.Value, passed: list[onnx_ir.Node], depth: int) -> onnx_ir.Value | None:
    """Return the mask without its neutral part: None if all of it is neutral, itself if nothing is."""
    truth = mask.dtype == onnx_ir.DataType.BOOL
    if _neutral(mask, passed):
        return None
    node = mask.producer()
    if node is None or depth == 0 or not is_op(node, "And" if truth else "Add"):
        return mask
    for side, other in ((0, 1), (1, 0)):
        value = node.inputs[other]
        if value is not None and _neutral(node.inputs[side], passed):
            passed.insert(0, node)
            return _rest(value, passed, depth - 1)
    return mask


def _neutral(mask: onnx_ir.Value | None, passed: list[onnx_ir.Node]) -> bool:
    """Tell whether all of the mask is zero or true; then the nodes that show it are noted."""
    if mask is None:
        return False
    seen: list[onnx_ir.Node] = []
    number = uniform(mask, seen)
    if number is None or number != (1 if mask.dtype == onnx_ir.DataType.BOOL else 0):
        return False
    passed += seen
    return True


def _fits(rest: onnx_ir.Value, mask: onnx_ir.Value, known: KnownSizes) -> bool:
    """Tell whether what remains still says something about every key."""
    new, old = known.shape(rest), known.shape(mask)
    if new is None or old is None or len(new) < 2:
        return False
    return new[-1] is not None and new[-1] == old[-1]
