"""Give the sigmoid-weighted linear unit one spelling."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float
from whet.passes.base import Change, Fidelity
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_PLAIN = op("Sigmoid", var("x"), name="sigmoid")
_SCALED = op("Sigmoid", op("Mul", var("x"), weight("c"), commutative=True, name="scaled"))


@dataclasses.dataclass(frozen=True)
class LiftSilu(Rewrite):
    """Spell ``x sigmoid(c x)`` as ``Mul(x, Sigmoid(Mul(x, c)))`` with the operands in this order.

    Without ``c`` it is the SiLU ``Mul(x, Sigmoid(x))``, with ``c = 1.702`` the quick approximation of GELU. ``Swish``
    of opset 24 is spelled out. Ramachandran et al., Searching for Activation Functions, 2017.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op("Mul", var("x"), _PLAIN, commutative=True),
        op("Mul", var("x"), _SCALED, commutative=True),
        op("Swish", var("x")),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the spelling is another one."""
        if found.root.op_type == "Swish":
            return True
        scaled = found.named.get("scaled")
        return found.root.inputs[0] is not found["x"] or (
            scaled is not None and scaled.inputs[0] is not found["x"]
        )

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the product."""
        x = found["x"]
        inner, c = x, found.get("c")
        if found.root.op_type == "Swish":
            c = _alpha(found, build)
        if c is not None:
            inner = build.op("Mul", x, c)
        return build.op("Mul", x, build.op("Sigmoid", inner))


def _alpha(found: Match, build: Builder) -> onnx_ir.Value | None:
    alpha, dtype = attribute_float(found.root, "alpha", 1.0), found["x"].dtype
    if alpha == 1.0:
        return None
    if dtype is None:
        raise Mismatch(f"the type of '{found['x'].name}' is not known")
    return build.constant(np.asarray(alpha, dtype=dtype.numpy()))
