"""Fold a multiplication by a per-channel constant into a linear operator."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.passes.base import Change, Fidelity
from whet.passes.fusion.linear import LINEAR, Affine, Linear, feeding, per_channel
from whet.passes.pattern import Match, Op, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite


def _scaled(x: Pattern, *, sole: bool = False) -> tuple[Op, Op]:
    return (
        op("Mul", x, weight("c"), name="map", sole=sole, commutative=True),
        op("Div", x, weight("c"), name="map", sole=sole),
    )


_AFTER = _scaled(LINEAR)
_BEFORE = [feeding(scaled) for scaled in _scaled(var("x"), sole=True)]


@dataclasses.dataclass(frozen=True)
class FoldScale(Rewrite):
    """Fold a Mul or Div by a constant ``s``, one number or one per channel, into the neighbouring linear operator.

    Behind it, ``s (W x + b)`` becomes ``(s W) x + s b``; before it, ``W (s x) + b`` becomes ``(W s) x + b``. Padded
    zeros stay zeros, so padding is no obstacle. Computed in float64. Declines where the constant does not lie along
    the channels alone, for weights that others read, and for float16 weights.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (*_AFTER, *(pattern for pair in _BEFORE for pattern in pair))

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator with the scaled weight."""
        linear, map_ = Linear.of(found), found.node("map")
        constant = found.array("c").astype(np.float64)
        behind = found.root is map_
        if behind:
            scale = per_channel(constant, linear.rank, linear.axis, linear.channels)
        else:
            scale = linear.constant_in(constant, found["x"])
        if map_.op_type == "Div":
            with np.errstate(divide="ignore"):
                scale = 1.0 / scale
        affine = Affine(scale, np.zeros_like(scale))
        return linear.then(affine, build) if behind else linear.after(affine, found["x"], build)
