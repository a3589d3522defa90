"""Recognize HardSwish however it is spelled."""

import dataclasses
import math
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, rank
from whet.passes.base import Fidelity
from whet.passes.fusion.expansion import number
from whet.passes.pattern import Match, Op, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_X = var("x")
_CLIPPED = op(
    "Clip", op("Add", _X, weight("three"), commutative=True), weight("zero"), weight("six")
)


def _product(left: Pattern, right: Pattern) -> Op:
    return op("Mul", left, right, commutative=True)


@dataclasses.dataclass(frozen=True)
class LiftHardSwish(Rewrite):
    """Write ``x clip(x + 3, 0, 6) / 6``, and ``x HardSigmoid(x)`` with slope 1/6, as ``HardSwish(x)``.

    Howard et al., Searching for MobileNetV3, 2019.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        _product(_X, op("HardSigmoid", _X, name="sigmoid")),
        _product(_X, op("Div", _CLIPPED, weight("divisor"))),
        _product(_X, _product(_CLIPPED, weight("factor"))),
        op("Div", _product(_X, _CLIPPED), weight("divisor")),
        _product(_product(_X, _CLIPPED), weight("factor")),
        _product(op("Div", _X, weight("divisor")), _CLIPPED),
        _product(_product(_X, weight("factor")), _CLIPPED),
    )

    def check(self, found: Match, work: Workbench) -> None:
        """Decline where the constants are others, or the operator is missing."""
        if work.opset < 14:
            raise Mismatch(f"opset {work.opset} has no HardSwish")
        if "sigmoid" in found.named:
            node = found.node("sigmoid")
            slope, offset = attribute_float(node, "alpha", 0.2), attribute_float(node, "beta", 0.5)
            if not (math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5):
                raise Mismatch(f"HardSigmoid has slope {slope:.6g} and offset {offset:.6g}")
            return
        for name, wanted in (
            ("three", 3),
            ("zero", 0),
            ("six", 6),
            ("divisor", 6),
            ("factor", 1 / 6),
        ):
            _is(found, name, wanted)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator."""
        return build.op("HardSwish", found["x"])


def _is(found: Match, name: str, wanted: float) -> None:
    value = found.get(name)
    if value is None:
        return
    actual, x = number(value), found["x"]
    if actual is None or not math.isclose(actual, wanted, rel_tol=1e-6):
        raise Mismatch(f"a constant is {actual}, where {wanted:.6g} was expected")
    if (rank(value) or 0) > (rank(x) or 0):
        raise Mismatch("a constant enlarges the result")
