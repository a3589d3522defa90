"""Choose Sum for an addition that the runtime would fuse into a slower operator."""

import dataclasses

import onnx_ir

from whet.ir.values import is_constant, rank
from whet.passes.onnxruntime.choice import Choice, Spelled
from whet.passes.pattern import Match, maybe, op, var
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes


@dataclasses.dataclass(frozen=True)
class ChooseSum(Choice):
    """Spell ``LayerNormalization(Add(x, skip))`` as ``LayerNormalization(Sum(x, skip))``.

    The runtime fuses the first by itself into SkipLayerNormalization, which can take several times as long as the
    two operators; the second it leaves alone.
    """

    patterns = (
        op(
            "LayerNormalization",
            op("Add", var("x"), var("skip"), name="sum"),
            var("scale"),
            maybe("shift"),
            name="norm",
        ),
    )

    def applies(self, found: Match) -> bool:
        """Tell whether the runtime could fuse it: a skip connection, whose sum nobody else reads."""
        total = found.node("sum").outputs[0]
        sole = len(total.uses()) == 1 and not total.is_graph_output()
        return sole and not any(_is_bias(v) for v in found.node("sum").inputs)

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the two operators; the norm itself is repeated as it is."""
        norm = found.node("norm")
        total = build.op("Sum", found["x"], found["skip"])
        made = build.ops(
            "LayerNormalization",
            (total, *norm.inputs[1:]),
            len(norm.outputs),
            attributes=norm.attributes,
        )
        return Spelled("Sum", tuple(zip(norm.outputs, made, strict=True)))


def _is_bias(value: onnx_ir.Value | None) -> bool:
    return is_constant(value) and (rank(value) or 0) < 2
