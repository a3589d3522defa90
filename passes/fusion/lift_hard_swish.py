"""Recognize HardSwish however it is spelled."""

import dataclasses
import math
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.expansion import number, uncast
from whet.passes.fusion.unit import find_unit, lift_unit
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftHardSwish(Pass):
    """Write ``x clip(x + 3, 0, 6) / 6``, and ``x HardSigmoid(x)`` with slope 1/6, as ``HardSwish(x)``.

    The product is recognized in any order. Howard et al., Searching for MobileNetV3, 2019.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Lift from every HardSigmoid and every Clip of a sum."""
        for node in work.nodes("HardSigmoid", "Clip"):
            while node.graph is not None and _visit(node, work):
                pass


def _visit(node: onnx_ir.Node, work: Workbench) -> bool:
    x, unit = _input(node), 1.0 if node.op_type == "HardSigmoid" else 1 / 6
    found = None
    if x is not None:
        found = find_unit(work.graph, node.outputs[0], x, unit, plus_one=False)
    if found is None:
        return False
    try:
        _check(node, work)
    except Mismatch as reason:
        work.near_miss(node, str(reason))
        return False
    return lift_unit(node, found, work, "HardSwish")


def _input(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return the ``x`` of which a slope is taken, or to which a constant is added before it is clipped."""
    value = node.inputs[0] if is_op(node, "HardSigmoid", "Clip") else None
    if value is None or node.op_type == "HardSigmoid":
        return None if value is None else uncast(value)
    add = uncast(value).producer()
    if add is None or not is_op(add, "Add"):
        return None
    left, right = add.inputs
    x = left if number(right) is not None else right
    return None if x is None else uncast(x)


def _check(node: onnx_ir.Node, work: Workbench) -> None:
    """Decline where the constants are others, or the operator is missing."""
    if work.opset < 14:
        raise Mismatch(f"opset {work.opset} has no HardSwish")
    if node.op_type == "HardSigmoid":
        slope, offset = attribute_float(node, "alpha", 0.2), attribute_float(node, "beta", 0.5)
        if not (math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5):
            raise Mismatch(f"HardSigmoid has slope {slope:.6g} and offset {offset:.6g}")
        return
    value = node.inputs[0]
    add = None if value is None else uncast(value).producer()
    added = [] if add is None else [number(v) for v in add.inputs if number(v) is not None]
    limits = [number(v) for v in node.inputs[1:]]
    if added != [3.0] or limits != [0.0, 6.0]:
        raise Mismatch(f"clips x + {added} to {limits}, where 3 and 0 to 6 were expected")
