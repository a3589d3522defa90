"""Recognize the Mish activation."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.ir.values import is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.expansion import number, uncast
from whet.passes.fusion.unit import find_unit, lift_unit
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftMish(Pass):
    """Write ``x tanh(softplus(x))`` as ``Mish(x)``, with softplus an operator or ``log(1 + exp(x))``.

    Softplus may be the identity above 20, where float cannot tell the difference.

    Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Lift from every Tanh of a softplus."""
        for node in work.nodes("Tanh"):
            while node.graph is not None and _visit(node, work):
                pass


def _visit(node: onnx_ir.Node, work: Workbench) -> bool:
    x = _under_softplus(node)
    if x is None:
        return False
    found = find_unit(work.graph, node.outputs[0], x, 1.0, plus_one=False)
    if found is None:
        work.near_miss(node, "the tanh of a softplus is not multiplied by the softplus's input")
        return False
    if work.opset < 18:
        work.decline(node, f"opset {work.opset} has no Mish")
        return False
    return lift_unit(node, found, work, "Mish")


def _under_softplus(node: onnx_ir.Node) -> onnx_ir.Value | None:
    inner = _operand(node, "Tanh")
    softplus = None if inner is None else inner.producer()
    if softplus is not None and is_op(softplus, "Where"):
        return _under_switch(softplus)
    if softplus is None or is_op(softplus, "Softplus"):
        return _operand(softplus, "Softplus")
    total = _operand(softplus, "Log")
    add = None if total is None else total.producer()
    if add is None or not is_op(add, "Add") or 1.0 not in (number(v) for v in add.inputs):
        return None
    other = next((v for v in add.inputs if v is not None and number(v) is None), None)
    return None if other is None else _operand(uncast(other).producer(), "Exp")


def _under_switch(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return the ``x`` of ``x > limit ? x : softplus(x)``, which is softplus in float from a limit of 20 on."""
    condition, above, below = node.inputs
    softplus = None if below is None else below.producer()
    greater = None if condition is None else condition.producer()
    x = _operand(softplus, "Softplus")
    if x is None or above is not x or greater is None or not is_op(greater, "Greater"):
        return None
    limit = number(greater.inputs[1])
    return x if greater.inputs[0] is x and limit is not None and limit >= 20 else None


def _operand(node: onnx_ir.Node | None, op_type: str) -> onnx_ir.Value | None:
    """Return the input of a node of one input, if it is of this type."""
    if node is None or not is_op(node, op_type) or node.inputs[0] is None:
        return None
    return uncast(node.inputs[0])
