"""Choose Sub for an addition that the runtime would fuse into a slower operator."""

import dataclasses

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_constant
from whet.passes.onnxruntime.choice import MICROSOFT, Choice, Spelled
from whet.passes.pattern import Match, maybe, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes

_PRODUCT = op(
    "MatMulIntegerToFloat",
    var("a"),
    var("matrix"),
    var("a scale"),
    weight("scales"),
    maybe("a zero"),
    maybe("zeros"),
    maybe("bias"),
    name="product",
    sole=True,
    domain=MICROSOFT,
)


@dataclasses.dataclass(frozen=True)
class ChooseSubtraction(Choice):
    """Spell ``LayerNormalization(x + (a B + b))`` as ``LayerNormalization(x - (a (-B) - b))``.

    The runtime fuses the first into SkipLayerNormalization, which can take several times as long as the two operators.
    Unlike Sum, Sub uses all threads. The integers of B stay as they are: their scales change sign.
    """

    patterns = (
        op(
            "LayerNormalization",
            op("Add", var("x"), _PRODUCT, name="sum", sole=True, commutative=True),
            var("scale"),
            maybe("shift"),
            name="norm",
        ),
    )

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the product with the other sign, the difference and the norm."""
        product, norm = found.node("product"), found.node("norm")
        if shapes.every(found["x"]) != shapes.every(product.outputs[0]):
            raise Mismatch(f"'{found['x'].name}' has another shape than the product")
        operands = list(product.inputs)
        operands[3] = _negative(found["scales"], build)
        bias = found.get("bias")
        if bias is not None:
            operands[6] = _negative(bias, build)
        other = build.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT)
        made = build.ops(
            "LayerNormalization",
            (build.op("Sub", found["x"], other), *norm.inputs[1:]),
            len(norm.outputs),
            attributes=norm.attributes,
        )
        return Spelled("Sub", tuple(zip(norm.outputs, made, strict=True)))


def _negative(value: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
    if not is_constant(value) or value.const_value is None:
        raise Mismatch(f"'{value.name}' is not a constant")
    negative = -np.asarray(value.const_value.numpy(), np.float32)
    return build.constant(negative, f"{value.name}.negative")
