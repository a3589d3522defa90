"""Recognize a softmax that is spelled out."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, is_op
from whet.passes.base import Fidelity
from whet.passes.forms import axes_of, from_zero, known_rank
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_OPSET = 13
"""Before this, Softmax takes all axes behind its own together."""
_SUM = op("ReduceSum", var("e"), name="sum", open=True)


@dataclasses.dataclass(frozen=True)
class LiftSoftmax(Rewrite):
    """Replace ``exp(x) / sum(exp(x))`` by ``Softmax(x)``, and ``exp(x - max(x)) / sum(exp(x - max(x)))`` as well."""

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op("Div", var("e"), _SUM),
        op("Mul", var("e"), op("Reciprocal", _SUM), commutative=True),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether exponentials are divided by their own sum."""
        return is_op(found["e"].producer(), "Exp")

    def check(self, found: Match, work: Workbench) -> None:
        """Decline sums over several axes."""
        if work.opset < _OPSET:
            raise Mismatch(f"Softmax of opset {work.opset} is over several axes")
        if len(_axes(found.node("sum"))) != 1 or not attribute_int(
            found.node("sum"), "keepdims", 1
        ):
            raise Mismatch("the sum is not over one axis that stays")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the softmax of what the exponential is taken of, without its maximum taken off."""
        exponential = found["e"].producer()
        x = None if exponential is None else exponential.inputs[0]
        assert x is not None
        assert exponential is not None
        found.nodes.append(exponential)
        axis = _axes(found.node("sum"))[0]
        return build.op("Softmax", _unshifted(x, axis, found), attributes={"axis": axis})


def _axes(node: onnx_ir.Node) -> tuple[int, ...]:
    """Return the axes of a reduction, counted from zero."""
    rank = known_rank(node.inputs[0])
    axes = axes_of(node)
    if axes:
        return from_zero(axes, rank)
    return () if attribute_int(node, "noop_with_empty_axes", 0) else tuple(range(rank))


def _unshifted(x: onnx_ir.Value, axis: int, found: Match) -> onnx_ir.Value:
    """Return y of ``y - max(y)``, if that is the same all along the axis."""
    node = x.producer()
    if node is None or not is_op(node, "Sub"):
        return x
    y, peak = node.inputs
    maker = None if peak is None else peak.producer()
    if y is None or maker is None or not is_op(maker, "ReduceMax") or maker.inputs[0] is not y:
        return x
    if axis not in _axes(maker) or not attribute_int(maker, "keepdims", 1):
        return x
    found.nodes += [node, maker]
    return y
