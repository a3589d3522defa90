"""Recognize the logistic function spelled with an exponential."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_constant, is_op
from whet.passes.base import Change, Fidelity
from whet.passes.fusion.expansion import number
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_EXPONENTIAL = op("Exp", var("u"), name="exp")
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
        """Decline where the one that is added is larger than what it is added to."""
        size, ones = found["u"].shape, found["one"].shape
        if size is None or ones is None or len(ones) > len(size):
            raise Mismatch("the rank of the exponential is not known, or less than that of the one")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the Sigmoid, multiplied by the numerator."""
        if "ratio" in found.named and found.get("a") is None:
            return build.op("Sigmoid", found["u"])
        y = build.op("Sigmoid", _negated(found["u"], build))
        a = found.get("a")
        if a is None or (number(a) == 1.0 and a.shape is not None and len(a.shape) == 0):
            return y
        return build.op("Mul", a, y)


def _negated(u: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
    """Return ``-u``: what a Neg was taken of, or what was multiplied by a constant, by its opposite."""
    node = u.producer()
    if node is not None and is_op(node, "Neg") and node.inputs[0] is not None:
        return node.inputs[0]
    if node is not None and is_op(node, "Mul"):
        left, right = node.inputs
        x, c = (right, left) if is_constant(left) else (left, right)
        tensor = None if c is None else c.const_value
        if x is not None and tensor is not None and is_constant(c):
            if number(c) == -1.0 and tensor.shape.rank() == 0:
                return x
            return build.op("Mul", x, build.constant(-tensor.numpy()))
    return build.op("Neg", u)
