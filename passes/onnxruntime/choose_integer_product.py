"""Choose MatMulIntegerToFloat."""

import dataclasses

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int
from whet.passes.onnxruntime.choice import MICROSOFT, Choice, Spelled, demand_vector
from whet.passes.pattern import Match, maybe, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes

_PRODUCT = op(
    "MatMul",
    op("DequantizeLinear", var("a"), weight("a scale"), maybe("a zero"), name="a"),
    op("DequantizeLinear", weight("b"), weight("b scale"), maybe("b zero"), name="b"),
    name="product",
    sole=True,
)
_SUM = op(
    "Mul",
    op(
        "Cast",
        op("MatMulInteger", var("a"), weight("b"), maybe("a zero"), maybe("b zero"), name="sum"),
    ),
    op("Mul", var("scale of a"), weight("b scale"), commutative=True),
    commutative=True,
    sole=True,
)
"""The same with a grid of the activation that is computed in each run."""
_BIASED, _BIASED_SUM = (
    op("Add", product, weight("bias"), name="end", commutative=True) for product in (_PRODUCT, _SUM)
)


@dataclasses.dataclass(frozen=True)
class ChooseIntegerProduct(Choice):
    """Spell ``DQ(a) DQ(B) + b`` as MatMulIntegerToFloat, which adds a vector b while it turns sums into floats.

    The runtime finds the operator by itself, but leaves the addition to another pass over the result; before a Gelu it
    makes it part of BiasGelu, which can take twice as long as Gelu does.
    """

    patterns = (
        op("Gelu", dataclasses.replace(_BIASED, sole=True), name="gelu"),
        op("Gelu", dataclasses.replace(_BIASED_SUM, sole=True), name="gelu"),
        _BIASED,
        dataclasses.replace(_PRODUCT, sole=False),
    )

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator."""
        if found["a"].dtype not in {onnx_ir.DataType.UINT8, onnx_ir.DataType.INT8}:
            raise Mismatch(f"the activation is {found['a'].dtype}, not int8 or uint8")
        matrix = found.array("b")
        if matrix.ndim != 2 or matrix.dtype.name not in ("int8", "uint8"):
            raise Mismatch(f"the weight is {matrix.dtype} with {matrix.ndim} dimensions")
        width = matrix.shape[1]
        bias = found.get("bias")
        if bias is not None:
            demand_vector(bias, width, shapes)
        operands = [
            found["a"], found["b"], _scale(found, shapes), found["b scale"], found.get("a zero"),
            _zero(found), bias,
        ]  # fmt: skip
        while operands[-1] is None:
            operands.pop()
        y = build.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT)
        if "gelu" in found.named:
            y = build.op("Gelu", y, attributes=dict(found.node("gelu").attributes))
        return Spelled("MatMulIntegerToFloat", ((found.root.outputs[0], y),))


def _scale(found: Match, shapes: SeenShapes) -> onnx_ir.Value:
    """Return the scale of the activation; raises Mismatch where it, or the weight's, has another axis."""
    scales = found.array("b scale")
    if "sum" in found.named:
        if set(shapes.every(found["scale of a"])) - {(), (1,)}:
            raise Mismatch("the activation has a scale per channel")
        demand_vector(found["b scale"], found.array("b").shape[1], shapes)
        return found["scale of a"]
    if found.array("a scale").size != 1:
        raise Mismatch("the activation has a scale per channel")
    if scales.size != 1 and attribute_int(found.node("b"), "axis", 1) not in (1, -1):
        raise Mismatch("the weight has a scale per input, not per output")
    return found["a scale"]


def _zero(found: Match) -> onnx_ir.Value | None:
    """Return the weight's zero points; without one where all are zero, as the runtime's fastest kernels want it."""
    value = found.get("b zero")
    return value if value is not None and np.any(found.array("b zero")) else None
