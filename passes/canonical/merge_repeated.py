"""Remove an operator that repeats or undoes the one before it."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite

_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
_INVOLUTIONS = ("Neg", "Not", "BitwiseNot")


@dataclasses.dataclass(frozen=True)
class MergeRepeated(Rewrite):
    """Replace ``f(f(x))`` by ``f(x)`` for rounding, Relu, Abs and Sign, and by ``x`` for Neg and Not."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        *(op(kind, op(kind, var("x"), name="inner")) for kind in _IDEMPOTENT),
        *(op(kind, op(kind, var("x"), name="inner")) for kind in _INVOLUTIONS),
    )

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return what the inner operator gives, or takes."""
        if found.root.op_type in _IDEMPOTENT:
            return found.node("inner").outputs[0]
        return found["x"]
