"""Choose FusedConv."""

import dataclasses

import numpy as np

from whet.errors import Mismatch
from whet.ir.values import attribute_float, constant
from whet.passes.onnxruntime.choice import MICROSOFT, Choice, Spelled, demand_float32
from whet.passes.pattern import Match, Op, Pattern, maybe, op, var, weight
from whet.passes.proposal import Attribute, Builder
from whet.passes.spelling_prices import SeenShapes

_CONV = op("Conv", var("x"), weight("w"), maybe("bias"), name="conv", sole=True)
_RESIDUAL = op("Add", _CONV, var("skip"), name="sum", sole=True, commutative=True)
_WITHOUT_PARAMETERS = ("Relu", "Sigmoid", "Tanh")
_DEFAULTS = {"LeakyRelu": {"alpha": 0.01}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}}


def _activated(x: Pattern) -> tuple[Op, ...]:
    return (
        op((*_WITHOUT_PARAMETERS, *_DEFAULTS), x),
        op("Clip", x, maybe("low"), maybe("high")),
    )


@dataclasses.dataclass(frozen=True)
class ChooseConvolution(Choice):
    """Spell ``f(conv(x) + skip)`` and ``f(conv(x))`` as FusedConv.

    f is Relu, LeakyRelu, Clip, Sigmoid, Tanh or HardSigmoid. The runtime fuses the activation by itself in general; the
    addition only in its blocked layouts, which need channel counts that its vectors divide. ``skip`` must have the
    shape of the convolution's result: nothing is broadcast.
    """

    patterns = (*_activated(_RESIDUAL), *_activated(_CONV))

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator."""
        conv = found.node("conv")
        demand_float32(found["x"])
        attributes: dict[str, Attribute] = dict(conv.attributes)
        attributes["activation"] = found.root.op_type
        parameters = _parameters(found)
        if parameters:
            attributes["activation_params"] = parameters
        inputs = [found["x"], found["w"], found.get("bias")]
        if "sum" in found.named:
            if shapes.every(found["skip"]) != shapes.every(conv.outputs[0]):
                raise Mismatch(f"'{found['skip'].name}' has not the shape of the convolution")
            inputs.append(found["skip"])
        y = build.op("FusedConv", *inputs, domain=MICROSOFT, attributes=attributes)
        return Spelled("FusedConv", ((found.root.outputs[0], y),))


def _parameters(found: Match) -> list[float]:
    root = found.root
    if root.op_type == "Clip":
        if "min" in root.attributes or "max" in root.attributes:
            raise Mismatch("Clip has its limits as attributes, as before opset 11")
        return [_limit(found, "low"), _limit(found, "high")]
    defaults = _DEFAULTS.get(root.op_type, {})
    return [attribute_float(root, name, default) for name, default in defaults.items()]


def _limit(found: Match, name: str) -> float:
    """Return a limit of Clip; without one, the end of float32."""
    value = found.get(name)
    if value is None:
        end = float(np.finfo(np.float32).max)
        return -end if name == "low" else end
    array = constant(value)
    if array is None:
        raise Mismatch(f"the limit '{value.name}' of Clip is not a constant")
    return float(array.reshape(-1)[0])
