"""Recognize the logistic function spelled with an exponential."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import rank
from whet.passes.base import Change, Fidelity
from whet.passes.fusion.expansion import number
from whet.passes.pattern import Match, one_of, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_EXPONENT = one_of(
    op("Neg", var("x"), name="neg"), op("Mul", var("x"), weight("c"), commutative=True), var("u")
)
_EXPONENTIAL = op("Exp", _EXPONENT, name="exp")
_BELOW = op("Add", _EXPONENTIAL, weight("one"), commutative=True)


@dataclasses.dataclass(frozen=True)
class LiftSigmoid(Rewrite):
    """Write ``a / (1 + exp(-x))`` as ``a Sigmoid(x)``, and ``exp(x) / (1 + exp(x))`` as ``Sigmoid(x)``.

    ``1 / (1 + exp(c x))`` becomes ``Sigmoid(-c x)``. Where the exponential overflows, the operator does not.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op("Div", _EXPONENTIAL, _BELOW, name="ratio"),
        op("Div", var("a"), _BELOW),
        op("Reciprocal", _BELOW),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether one is added."""
        return number(found["one"]) == 1.0

    def check(self, found: Match, work: Workbench) -> None:
        """Decline where the one that is added has more axes than what it is added to."""
        size, ones = rank(found.node("exp").outputs[0]), rank(found["one"])
        if size is None or ones is None or ones > size:
            raise Mismatch("the rank of the exponential is not known, or less than that of the one")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the Sigmoid, multiplied by the numerator."""
        a = found.get("a")
        if "ratio" in found.named and a is None:
            exponent = found.node("exp").inputs[0]
            assert exponent is not None
            return build.op("Sigmoid", exponent)
        y = build.op("Sigmoid", _negated(found, build))
        if a is None or (number(a) == 1.0 and rank(a) == 0):
            return y
        return build.op("Mul", a, y)


def _negated(found: Match, build: Builder) -> onnx_ir.Value:
    """Return the exponent with the other sign."""
    if "neg" in found.named:
        return found["x"]
    if found.get("c") is None:
        return build.op("Neg", found["u"])
    if number(found["c"]) == -1.0 and rank(found["c"]) == 0:
        return found["x"]
    return build.op("Mul", found["x"], build.constant(np.negative(found.array("c"))))
