"""Choose QuickGelu."""

import dataclasses

from whet.errors import Mismatch
from whet.passes.onnxruntime.choice import MICROSOFT, Choice, Spelled, demand_float32
from whet.passes.pattern import Match, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes


def _gated(inner: Pattern) -> Pattern:
    return op("Sigmoid", inner, name="sigmoid", sole=True)


_STEEP = op("Mul", var("x"), weight("alpha"), name="steep", sole=True, commutative=True)


@dataclasses.dataclass(frozen=True)
class ChooseQuickGelu(Choice):
    """Spell ``x sigmoid(alpha x)`` as QuickGelu; with alpha 1 that is SiLU."""

    patterns = (
        op("Mul", var("x"), _gated(_STEEP), commutative=True),
        op("Mul", var("x"), _gated(var("x")), commutative=True),
    )

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator."""
        demand_float32(found["x"])
        alpha = 1.0
        if "steep" in found.named:
            array = found.array("alpha")
            if array.size != 1 or array.ndim > len(shapes.first(found["x"])):
                raise Mismatch(f"alpha has shape {array.shape}, it must be one number")
            alpha = float(array.reshape(-1)[0])
        y = build.op("QuickGelu", found["x"], domain=MICROSOFT, attributes={"alpha": alpha})
        return Spelled("QuickGelu", ((found.root.outputs[0], y),))
