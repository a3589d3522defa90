"""Choose BiasGelu and FastGelu."""

import dataclasses

from whet.ir.values import attribute_string
from whet.passes.onnxruntime.choice import (
    MICROSOFT,
    Choice,
    Spelled,
    demand_float32,
    demand_vector,
)
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes

_BIASED = op("Add", var("x"), weight("bias"), name="add", sole=True, commutative=True)


@dataclasses.dataclass(frozen=True)
class ChooseBiasGelu(Choice):
    """Spell ``gelu(x + bias)`` as BiasGelu, its tanh form as FastGelu, which also exists without a bias.

    The bias must be a vector along the last axis of x.
    """

    patterns = (op("Gelu", _BIASED, name="gelu"), op("Gelu", var("x"), name="gelu"))

    def applies(self, found: Match) -> bool:
        """Leave the erf form without a bias, for which the runtime has no other operator."""
        return "add" in found.named or _by_tanh(found)

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator."""
        x, bias = found["x"], found.get("bias")
        demand_float32(x)
        operands = [x]
        if bias is not None:
            demand_vector(bias, shapes.first(x)[-1], shapes)
            operands.append(bias)
        name = "FastGelu" if _by_tanh(found) else "BiasGelu"
        y = build.op(name, *operands, domain=MICROSOFT)
        return Spelled(name, ((found.root.outputs[0], y),))


def _by_tanh(found: Match) -> bool:
    return attribute_string(found.node("gelu"), "approximate", "none") == "tanh"
