"""Arithmetic, comparison and logic, element by element with numpy's broadcasting."""

import functools
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from whet.ir.twin.registry import op


@op("Add", since=7)
def add(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a + b``."""
    return a + b


@op("Sub", since=7)
def sub(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a - b``."""
    return a - b


@op("Mul", since=7)
def mul(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a * b``."""
    return a * b


@op("Div", since=7)
def div(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a / b``; integers truncate towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Mod", since=10)
def mod(a: Tensor, b: Tensor, *, fmod: int) -> Tensor:
    """Compute the remainder with the sign of ``b``, or of ``a`` with ``fmod``."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Pow", since=7, widen=False)
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Compute ``base ** exponent`` in the base's type."""
    if base.is_floating_point() and not exponent.is_floating_point():
        exponent = exponent.to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def _fold(function: Callable[[Tensor, Tensor], Tensor], values: tuple[Tensor, ...]) -> Tensor:
    return functools.reduce(function, values)


@op("Sum", since=8)
def sum_all(*values: Tensor) -> Tensor:
    """Add all inputs."""
    return _fold(operator.add, values)


@op("Mean", since=8)
def mean_all(*values: Tensor) -> Tensor:
    """Average all inputs."""
    return _fold(operator.add, values) / len(values)


@op("Max", since=8)
def max_all(*values: Tensor) -> Tensor:
    """Take the largest of all inputs."""
    return _fold(torch.maximum, values)


@op("Min", since=8)
def min_all(*values: Tensor) -> Tensor:
    """Take the smallest of all inputs."""
    return _fold(torch.minimum, values)


@op("Abs", since=1)
def absolute(x: Tensor) -> Tensor:
    """Compute ``|x|``."""
    return torch.abs(x)


@op("Neg", since=1)
def negative(x: Tensor) -> Tensor:
    """Compute ``-x``."""
    return -x


@op("Sign", since=9)
def sign(x: Tensor) -> Tensor:
    """Compute -1, 0 or 1."""
    return torch.sign(x)


@op("Clip", since=6)
def clip_6(x: Tensor, *, min: float, max: float) -> Tensor:
    """Limit to a range given by attributes."""
    return torch.clamp(x, min, max)


@op("Clip", since=11)
def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limit to a range given by scalar inputs."""
    x = x if low is None else torch.maximum(x, low.reshape(()))
    return x if high is None else torch.minimum(x, high.reshape(()))


@op("Not", since=1)
def logical_not(x: Tensor) -> Tensor:
    """Negate booleans."""
    return torch.logical_not(x)


@op("And", since=7)
def logical_and(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a and b``."""
    return torch.logical_and(a, b)


@op("Or", since=7)
def logical_or(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a or b``."""
    return torch.logical_or(a, b)


@op("Xor", since=7)
def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a xor b``."""
    return torch.logical_xor(a, b)


@op("Equal", since=7)
def equal(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a == b``."""
    return torch.eq(a, b)


@op("Greater", since=7)
def greater(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a > b``."""
    return torch.gt(a, b)


@op("GreaterOrEqual", since=12)
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a >= b``."""
    return torch.ge(a, b)


@op("Less", since=7)
def less(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a < b``."""
    return torch.lt(a, b)


@op("LessOrEqual", since=12)
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a <= b``."""
    return torch.le(a, b)


@op("Where", since=9)
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose ``a`` where the condition holds, else ``b``."""
    return torch.where(condition, a, b)


@op("BitwiseAnd", since=18)
def bitwise_and(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a & b``."""
    return torch.bitwise_and(a, b)


@op("BitwiseOr", since=18)
def bitwise_or(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a | b``."""
    return torch.bitwise_or(a, b)


@op("BitwiseXor", since=18)
def bitwise_xor(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a ^ b``."""
    return torch.bitwise_xor(a, b)


@op("BitwiseNot", since=18)
def bitwise_not(x: Tensor) -> Tensor:
    """Compute ``~x``."""
    return torch.bitwise_not(x)


@op("BitShift", since=11, widen=False)
def bit_shift(x: Tensor, amount: Tensor, *, direction: str) -> Tensor:
    """Shift bits; to the right a signed number keeps its sign; the width or more empties."""
    width = x.element_size() * 8
    bits = x.to(torch.int64)
    if not x.dtype.is_signed and width < 64:
        bits = bits & ((1 << width) - 1)
    count = amount.to(torch.int64)
    safe = count.clamp(0, width - 1)
    if direction == "LEFT":
        shifted = bits << safe
    else:
        mask = torch.where(safe > 0, (1 << (64 - safe).clamp(max=62)) - 1, -1)
        mask = torch.where(safe == 1, torch.iinfo(torch.int64).max, mask)
        shifted = (bits >> safe) & mask if not x.dtype.is_signed else bits >> safe
    inside = (count >= 0) & (count < width)
    emptied = (bits >> 63) if direction == "RIGHT" and x.dtype.is_signed else torch.zeros_like(bits)
    return torch.where(inside, shifted, emptied).to(x.dtype)


@op("IsNaN", since=9)
def is_nan(x: Tensor) -> Tensor:
    """Find NaNs."""
    return torch.isnan(x.float() if x.element_size() == 1 else x)


@op("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int, detect_positive: int) -> Tensor:
    """Find infinities of the wanted signs."""
    x = x.float() if x.element_size() == 1 else x
    found = torch.isposinf(x) & bool(detect_positive)
    return found | (torch.isneginf(x) & bool(detect_negative))


def _register_unary(op_type: str, since: int, function: Callable[[Tensor], Tensor]) -> None:
    op(op_type, since=since, widen=False)(function)


for _op_type, _since, _function in (
    ("Acos", 7, torch.acos),
    ("Acosh", 9, torch.acosh),
    ("Asin", 7, torch.asin),
    ("Asinh", 9, torch.asinh),
    ("Atan", 7, torch.atan),
    ("Atanh", 9, torch.atanh),
    ("Ceil", 1, torch.ceil),
    ("Cos", 7, torch.cos),
    ("Cosh", 9, torch.cosh),
    ("Erf", 9, torch.erf),
    ("Exp", 1, torch.exp),
    ("Floor", 1, torch.floor),
    ("Log", 1, torch.log),
    ("Reciprocal", 1, torch.reciprocal),
    ("Round", 11, torch.round),
    ("Sigmoid", 1, torch.sigmoid),
    ("Sin", 7, torch.sin),
    ("Sinh", 9, torch.sinh),
    ("Sqrt", 1, torch.sqrt),
    ("Tan", 7, torch.tan),
    ("Tanh", 1, torch.tanh),
):
    _register_unary(_op_type, _since, _function)
