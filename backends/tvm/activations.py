"""Operators that map every element by itself, as expressions: for loops of their own and for the ends of kernels."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import onnx_ir

from whet.backends.tvm.api import Expr, tirx
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.mathematics import erf, exp, gelu, let, sigmoid, tanh
from whet.ir.values import attribute_float, attribute_int, attribute_string

__all__ = ["UNARY", "Activation", "activation"]

_FLOATS = frozenset({"float16", "float32", "float64"})


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of one element."""

    key: str
    """Tells it from others."""
    apply: Callable[[Expr], Expr] = dataclasses.field(compare=False)


def _c(x: Expr, number: float) -> Expr:
    return tirx.const(number, str(x.ty))


def _softplus(x: Expr) -> Expr:
    """Return log(1 + eˣ) without overflow."""
    near = let(x, lambda v: tirx.log(_c(v, 1) + exp(_c(v, 0) - tirx.abs(v))))
    return tirx.max(x, _c(x, 0)) + near


def _sign(x: Expr) -> Expr:
    if str(x.ty).startswith("uint"):
        return tirx.Select(x > _c(x, 0), _c(x, 1), _c(x, 0))
    below = tirx.Select(x < _c(x, 0), _c(x, -1), _c(x, 0))
    return tirx.Select(x > _c(x, 0), _c(x, 1), below)


def _abs(x: Expr) -> Expr:
    return x if str(x.ty).startswith("uint") else tirx.abs(x)


def _is_nan(x: Expr) -> Expr:
    """Look at the bits: TVM takes ``x != x`` for false."""
    bits, limit = {"float16": (16, 0x7C00), "float32": (32, 0x7F800000)}.get(
        str(x.ty), (64, 0x7FF0000000000000)
    )
    kind = f"int{bits}"
    number = tirx.reinterpret(kind, x)
    return (number & tirx.const((1 << (bits - 1)) - 1, kind)) > tirx.const(limit, kind)


def _gelu_by_tanh(x: Expr) -> Expr:
    root = math.sqrt(2 / math.pi)
    return let(
        x,
        lambda v: (
            _c(v, 0.5) * v * (_c(v, 1) + tanh(_c(v, root) * (v + _c(v, 0.044715) * v * v * v)))
        ),
    )


_PLAIN: Mapping[str, Callable[[Expr], Expr]] = {
    "Abs": _abs,
    "Acos": tirx.acos,
    "Acosh": tirx.acosh,
    "Asin": tirx.asin,
    "Asinh": tirx.asinh,
    "Atan": tirx.atan,
    "Atanh": tirx.atanh,
    "Ceil": tirx.ceil,
    "Cos": tirx.cos,
    "Cosh": tirx.cosh,
    "Erf": erf,
    "Exp": exp,
    "Floor": tirx.floor,
    "HardSwish": lambda x: let(
        x, lambda v: v * tirx.max(_c(v, 0), tirx.min(_c(v, 1), v * _c(v, 1 / 6) + _c(v, 0.5)))
    ),
    "IsNaN": _is_nan,
    "Log": tirx.log,
    "Mish": lambda x: let(x, lambda v: v * tanh(_softplus(v))),
    "Neg": lambda x: _c(x, 0) - x,
    "Reciprocal": lambda x: _c(x, 1) / x,
    "Relu": lambda x: tirx.max(x, _c(x, 0)),
    "Round": tirx.nearbyint,
    "Sigmoid": sigmoid,
    "Sign": _sign,
    "Sin": tirx.sin,
    "Sinh": tirx.sinh,
    "Softplus": lambda x: let(x, _softplus),
    "Softsign": lambda x: let(x, lambda v: v / (_c(v, 1) + tirx.abs(v))),
    "Sqrt": tirx.sqrt,
    "Tan": tirx.tan,
    "Tanh": tanh,
}
UNARY = frozenset(
    {*_PLAIN, "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "LeakyRelu", "Selu", "Shrink", "Swish"}
    | {"ThresholdedRelu", "IsInf"}
)
"""Operators that :func:`activation` knows."""


def activation(low: Lowering, node: onnx_ir.Node) -> Activation | None:
    """Return what a node does to each element; None if its limits are computed while the model runs."""
    kind = node.op_type
    if kind in _PLAIN:
        return Activation(kind, _PLAIN[kind])
    if kind == "Clip":
        return _clip(low, node)
    if kind == "Gelu":
        bent = attribute_string(node, "approximate", "none") == "tanh"
        return Activation(f"Gelu{bent}", _gelu_by_tanh if bent else gelu)
    if kind == "IsInf":
        return _is_inf(node)
    return _parametric(node)


def _clip(low: Lowering, node: onnx_ir.Node) -> Activation | None:
    limits: list[float | None] = [None, None]
    for place, name in enumerate(("min", "max")):
        value = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if value is not None:
            known = low.known(value)
            if known is None:
                return None
            limits[place] = known.item()
        elif name in node.attributes:
            limits[place] = attribute_float(node, name, 0.0)
    low_, high = limits

    def apply(x: Expr) -> Expr:
        found = x if low_ is None else tirx.max(x, _c(x, low_))
        return found if high is None else tirx.min(found, _c(x, high))

    return Activation(f"Clip{low_}{high}", apply)


def _is_inf(node: onnx_ir.Node) -> Activation:
    below = attribute_int(node, "detect_negative", 1) != 0
    above = attribute_int(node, "detect_positive", 1) != 0

    def apply(x: Expr) -> Expr:
        limit = tirx.max_value(str(x.ty))
        found = tirx.const(False, "bool")
        if above:
            found = tirx.any(found, x > limit)
        return tirx.any(found, x < -limit) if below else found

    return Activation(f"IsInf{below}{above}", apply)


def _parametric(node: onnx_ir.Node) -> Activation:
    kind = node.op_type
    defaults = {
        "Elu": (1.0, 0.0), "Celu": (1.0, 0.0), "LeakyRelu": (0.01, 0.0), "ThresholdedRelu": (1.0, 0.0),
        "HardSigmoid": (0.2, 0.5), "Selu": (1.6732632423543772, 1.0507009873554805), "Swish": (1.0, 0.0),
    }  # fmt: skip
    if kind == "Shrink":
        bias, lambd = attribute_float(node, "bias", 0.0), attribute_float(node, "lambd", 0.5)
        return Activation(f"Shrink{bias},{lambd}", lambda x: _shrink(x, bias, lambd))
    first, second = defaults[kind]
    a = attribute_float(node, "alpha", first)
    b = attribute_float(node, "gamma" if kind == "Selu" else "beta", second)
    bodies: Mapping[str, Callable[[Expr], Expr]] = {
        "Elu": lambda v: tirx.Select(v < _c(v, 0), _c(v, a) * (exp(v) - _c(v, 1)), v),
        "Celu": lambda v: (
            tirx.max(v, _c(v, 0)) + tirx.min(_c(v, 0), _c(v, a) * (exp(v / _c(v, a)) - _c(v, 1)))
        ),
        "LeakyRelu": lambda v: tirx.Select(v < _c(v, 0), v * _c(v, a), v),
        "ThresholdedRelu": lambda v: tirx.Select(v > _c(v, a), v, _c(v, 0)),
        "HardSigmoid": lambda v: tirx.max(_c(v, 0), tirx.min(_c(v, 1), v * _c(v, a) + _c(v, b))),
        "Selu": lambda v: _c(v, b) * tirx.Select(v > _c(v, 0), v, _c(v, a) * (exp(v) - _c(v, 1))),
        "Swish": lambda v: v * sigmoid(v * _c(v, a)),
    }
    body = bodies[kind]
    return Activation(f"{kind}{a},{b}", lambda x: let(x, body))


def _shrink(x: Expr, bias: float, lambd: float) -> Expr:
    above = tirx.Select(x > _c(x, lambd), x - _c(x, bias), _c(x, 0))
    return tirx.Select(x < _c(x, -lambd), x + _c(x, bias), above)
