"""Recognize the Mish activation."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import rank
from whet.passes.base import Fidelity
from whet.passes.fusion.expansion import number
from whet.passes.pattern import Match, one_of, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_SOFTPLUS = one_of(
    op("Softplus", var("x")),
    op("Log", op("Add", op("Exp", var("x")), weight("one"), commutative=True)),
)


@dataclasses.dataclass(frozen=True)
class LiftMish(Rewrite):
    """Write ``x tanh(softplus(x))`` as ``Mish(x)``, with softplus an operator or ``log(1 + exp(x))``.

    Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (op("Mul", var("x"), op("Tanh", _SOFTPLUS), commutative=True),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether one is what is added under the logarithm."""
        one = found.get("one")
        return one is None or number(one) == 1.0

    def check(self, found: Match, work: Workbench) -> None:
        """Decline where the operator is missing, or the constant enlarges the result."""
        if work.opset < 18:
            raise Mismatch(f"opset {work.opset} has no Mish")
        one, x = found.get("one"), found["x"]
        if one is not None and (rank(one) or 0) > (rank(x) or 0):
            raise Mismatch("the rank of the input is not known, or less than that of the one")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator."""
        return build.op("Mish", found["x"])
