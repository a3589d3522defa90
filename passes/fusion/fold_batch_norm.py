"""Fold batch normalization into the linear operator before or after it."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int
from whet.passes.base import Change, Fidelity
from whet.passes.fusion.linear import LINEAR, Affine, Linear, feeding
from whet.passes.pattern import Match, Op, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


def _normalized(x: Pattern, *, sole: bool = False) -> Op:
    parameters = (weight(name) for name in ("gamma", "beta", "mean", "variance"))
    return op("BatchNormalization", x, *parameters, name="norm", sole=sole)


@dataclasses.dataclass(frozen=True)
class FoldBatchNorm(Rewrite):
    """Fold ``BN(x) = s x + t`` into the Conv, ConvTranspose, Gemm or MatMul next to it.

    With ``s = gamma / sqrt(variance + epsilon)`` and ``t = beta - s mean``:

    - behind it, ``BN(W x + b)`` becomes ``(s W) x + (s b + t)``;
    - before it, ``W BN(x) + b`` becomes ``(W s) x + (W t + b)``, where no padding and no stride makes ``W t`` differ
      between outputs, and the channels are what the operator sums over.

    Computed in float64. Declines in training mode, for weights that others read, and for float16 weights.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (_normalized(LINEAR), *feeding(_normalized(var("x"), sole=True)))

    def check(self, found: Match, work: Workbench) -> None:
        """Decline unless the node normalizes with constants, in inference mode."""
        norm = found.node("norm")
        if attribute_int(norm, "training_mode", 0) or len(norm.outputs) > 1:
            raise Mismatch("BatchNormalization is in training mode")
        if work.opset < 7 or not attribute_int(norm, "spatial", 1):
            raise Mismatch("BatchNormalization does not normalize per channel at this opset")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator with the folded weight."""
        linear, norm = Linear.of(found), _affine(found)
        if found.root is found.node("norm"):
            linear.channel_axis_is_one(linear.axis)
            _same_count(norm, linear.channels)
            return linear.then(norm, build)
        linear.channel_axis_is_one(linear.axis_in)
        _same_count(norm, linear.channels_in)
        return linear.after(norm, found["x"], build)


def _affine(found: Match) -> Affine:
    gamma, beta, mean, variance = (
        found.array(name).astype(np.float64) for name in ("gamma", "beta", "mean", "variance")
    )
    epsilon = attribute_float(found.node("norm"), "epsilon", 1e-5)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        return Affine(scale, beta - mean * scale)


def _same_count(norm: Affine, channels: int) -> None:
    if norm.scale.shape != (channels,):
        raise Mismatch(f"{norm.scale.size} normalized channels, but {channels} in the weight")
