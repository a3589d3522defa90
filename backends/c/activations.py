"""Functions of one number, as statements on ``v``: they run alone, or at the end of another kernel."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir

from whet.backends.c.spelling import floating
from whet.ir.values import attribute_float, attribute_string

if TYPE_CHECKING:
    from whet.backends.c.lowering import Lowering

__all__ = ["UNARY", "Bounds", "activation", "bounds"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Cut off below and above: what Relu and Clip do, and all that they do."""

    low: float = -math.inf
    high: float = math.inf

    def then(self, other: "Bounds") -> "Bounds":
        """Return this cut and then the other."""
        low = min(max(self.low, other.low), other.high)
        return Bounds(low, max(min(self.high, other.high), low))


def bounds(low: "Lowering", node: onnx_ir.Node) -> Bounds | None:
    """Return what a Relu or a Clip with fixed limits cuts off."""
    if node.op_type == "Relu":
        return Bounds(0.0)
    if node.op_type != "Clip":
        return None
    limits = [node.attributes["min"].as_float() if "min" in node.attributes else -math.inf,
              node.attributes["max"].as_float() if "max" in node.attributes else math.inf]  # fmt: skip
    for k, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        known = low.known(value)
        if known is None or known.size != 1:
            return None
        limits[k] = float(known.reshape(-1)[0])
    return Bounds(*limits)


def activation(low: "Lowering", node: onnx_ir.Node) -> list[str] | None:
    """Return the statements of a node that maps every number by itself, or None if it is no such node."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    if low.dtype(node.outputs[0]) != np.float32:
        return None
    if node.op_type == "Clip":
        cut = bounds(low, node)
        return None if cut is None else _clip(cut)
    make = UNARY.get(node.op_type)
    return None if make is None else make(node)


def _clip(cut: Bounds) -> list[str]:
    lines: list[str] = []
    if cut.low > -math.inf:
        lines.append(f"v = v < {floating(cut.low)} ? {floating(cut.low)} : v;")
    if cut.high < math.inf:
        lines.append(f"v = v > {floating(cut.high)} ? {floating(cut.high)} : v;")
    return lines


Spelled = Callable[[onnx_ir.Node], list[str]]


def _plain(expression: str) -> Spelled:
    return lambda _node: [f"v = {expression};"]


def _a(node: onnx_ir.Node, name: str, default: float) -> str:
    return floating(attribute_float(node, name, default))


def _gelu(node: onnx_ir.Node) -> list[str]:
    if attribute_string(node, "approximate", "none") == "tanh":
        return [
            "v = 0.5f * v * (1.0f + tanhf(0.797884561f * (v + 0.044715f * v * v * v)));",
        ]
    return ["v = 0.5f * v * (1.0f + erff(v * 0.707106781f));"]


def _hard_sigmoid(slope: str, offset: str) -> list[str]:
    return [
        f"float u = {slope} * v + {offset};",
        "u = u < 0.0f ? 0.0f : u;",
        "u = u > 1.0f ? 1.0f : u;",
    ]


def _block(*lines: str) -> list[str]:
    """Return statements with variables of their own."""
    return ["{", *lines, "}"]


UNARY: dict[str, Spelled] = {
    "Relu": _plain("v < 0.0f ? 0.0f : v"),
    "LeakyRelu": lambda n: [f"v = v < 0.0f ? {_a(n, 'alpha', 0.01)} * v : v;"],
    "ThresholdedRelu": lambda n: [f"v = v > {_a(n, 'alpha', 1.0)} ? v : 0.0f;"],
    "Elu": lambda n: [f"v = v < 0.0f ? {_a(n, 'alpha', 1.0)} * expm1f(v) : v;"],
    "Celu": lambda n: [
        f"v = v < 0.0f ? {_a(n, 'alpha', 1.0)} * expm1f(v / {_a(n, 'alpha', 1.0)}) : v;"
    ],
    "Selu": lambda n: [
        f"v = {_a(n, 'gamma', 1.05070102214813232)} * "
        f"(v > 0.0f ? v : {_a(n, 'alpha', 1.67326319217681884)} * expm1f(v));"
    ],
    "Sigmoid": _plain("1.0f / (1.0f + expf(-v))"),
    "Swish": lambda n: [f"v = v / (1.0f + expf(-{_a(n, 'alpha', 1.0)} * v));"],
    "HardSigmoid": lambda n: _block(
        *_hard_sigmoid(_a(n, "alpha", 0.2), _a(n, "beta", 0.5)), "v = u;"
    ),
    "HardSwish": lambda _n: _block(*_hard_sigmoid(floating(1 / 6), "0.5f"), "v = v * u;"),
    "Mish": _plain("v * tanhf(v > 0.0f ? v + log1pf(expf(-v)) : log1pf(expf(v)))"),
    "Softplus": _plain("v > 0.0f ? v + log1pf(expf(-v)) : log1pf(expf(v))"),
    "Softsign": _plain("v / (1.0f + fabsf(v))"),
    "Gelu": _gelu,
    "Tanh": _plain("tanhf(v)"),
    "Erf": _plain("erff(v)"),
    "Exp": _plain("expf(v)"),
    "Log": _plain("logf(v)"),
    "Sqrt": _plain("sqrtf(v)"),
    "Reciprocal": _plain("1.0f / v"),
    "Abs": _plain("fabsf(v)"),
    "Neg": _plain("-v"),
    "Sign": _plain("v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v"),
    "Floor": _plain("floorf(v)"),
    "Ceil": _plain("ceilf(v)"),
    "Round": _plain("rintf(v)"),
    "Sin": _plain("sinf(v)"),
    "Cos": _plain("cosf(v)"),
    "Tan": _plain("tanf(v)"),
    "Atan": _plain("atanf(v)"),
    "Sinh": _plain("sinhf(v)"),
    "Cosh": _plain("coshf(v)"),
}  # fmt: skip
"""Operator -> statements."""
