"""Fold an addition of a per-channel constant into the bias of a linear operator."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.passes.base import Change, Fidelity
from whet.passes.fusion.linear import BIASED, Affine, Linear, feeding, per_channel
from whet.passes.pattern import Match, Op, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite


def _shifted(x: Pattern, *, sole: bool = False) -> tuple[Op, Op, Op]:
    return (
        op("Add", x, weight("c"), name="map", sole=sole, commutative=True),
        op("Sub", x, weight("c"), name="map", sole=sole),
        op("Sub", weight("c"), x, name="map", sole=sole),
    )


def _before(upstream: Pattern) -> tuple[Op, Op]:
    plain, matmul = feeding(upstream)
    biased = op(
        "Add",
        dataclasses.replace(matmul, sole=True),
        weight("bias"),
        name="add",
        commutative=True,
    )
    return plain, biased


_BEFORE = tuple(_before(shifted) for shifted in _shifted(var("x"), sole=True))


@dataclasses.dataclass(frozen=True)
class FoldShift(Rewrite):
    """Fold an Add or Sub of a constant ``t``, one number or one per channel, into the neighbouring linear operator.

    Behind it, ``(W x + b) + t`` becomes ``W x + (b + t)``, and ``t - (W x + b)`` becomes ``(-W) x + (t - b)``; before
    it, ``W (x + t) + b`` becomes ``W x + (W t + b)``, unless padding or stride makes ``W t`` differ between outputs. A
    MatMul takes part if an Add behind it is its bias; without one nothing would be saved. Computed in float64.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (*_shifted(BIASED), *(pattern for pair in _BEFORE for pattern in pair))

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator with the shifted bias."""
        linear, map_ = Linear.of(found), found.node("map")
        constant = found.array("c").astype(np.float64)
        if found.root is map_:
            shift = per_channel(constant, linear.rank, linear.axis, linear.channels)
            return linear.then(_affine(map_, found, shift), build)
        shift = linear.constant_in(constant, found["x"])
        return linear.after(_affine(map_, found, shift), found["x"], build)


def _affine(
    map_: onnx_ir.Node, found: Match, shift: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> Affine:
    ones = np.ones_like(shift)
    if map_.op_type == "Add":
        return Affine(ones, shift)
    return Affine(-ones, shift) if map_.inputs[0] is found["c"] else Affine(ones, -shift)
