"""What one element of a tensor is, as an expression over its position: ``slope[h] * (j - i)``.

A bias tensor of shape ``[batch, heads, queries, keys]`` is read from the graph as one expression over the four
indices, whatever reshapes, broadcasts and gathers the exporter spelled it with. From the expression follows what the
tensor is: a causal mask, a padding mask, a product of a function of the query and a function of the key.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import onnx_ir

__all__ = [
    "BATCH",
    "HEAD",
    "KEY",
    "QUERY",
    "Apply",
    "Expression",
    "Index",
    "Last",
    "Leaf",
    "Number",
    "Sum",
    "always",
    "apply",
    "axes_of",
    "linear",
    "walk",
]

BATCH, HEAD, QUERY, KEY = range(4)
"""The axes of a bias; sums run over axes of their own, numbered from 4 on."""

_INTEGER = onnx_ir.DataType.INT64
_BOOL = onnx_ir.DataType.BOOL


@dataclasses.dataclass(frozen=True)
class Index:
    """The position along an axis, counted from 0."""

    axis: int
    dtype: onnx_ir.DataType = _INTEGER


@dataclasses.dataclass(frozen=True)
class Number:
    """A constant."""

    value: float
    dtype: onnx_ir.DataType = _INTEGER


@dataclasses.dataclass(frozen=True)
class Last:
    """The last position along an axis: its size, less one."""

    axis: int
    dtype: onnx_ir.DataType = _INTEGER


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An element of a tensor of the graph, at the given coordinates."""

    tensor: onnx_ir.Value
    at: tuple["Expression", ...]
    dtype: onnx_ir.DataType
    why: str = dataclasses.field(default="", compare=False)
    """Why it was not looked through further."""


@dataclasses.dataclass(frozen=True)
class Apply:
    """An elementwise operator of ONNX on elements."""

    op: str
    operands: tuple["Expression", ...]
    dtype: onnx_ir.DataType


@dataclasses.dataclass(frozen=True)
class Sum:
    """The sum of ``body`` over all positions of an axis of ``size``."""

    axis: int
    size: int
    body: "Expression"
    dtype: onnx_ir.DataType


Expression = Index | Last | Number | Leaf | Apply | Sum


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield an expression and all that it is made of."""
    yield expression
    parts: tuple[Expression, ...] = ()
    if isinstance(expression, Leaf):
        parts = expression.at
    elif isinstance(expression, Apply):
        parts = expression.operands
    elif isinstance(expression, Sum):
        parts = (expression.body,)
    for part in parts:
        yield from walk(part)


def axes_of(expression: Expression) -> frozenset[int]:
    """Return the axes that the expression depends on."""
    return frozenset(part.axis for part in walk(expression) if isinstance(part, Index))


def linear(expression: Expression) -> Mapping[int | None, float] | None:
    """Return the factors of ``c + sum_k f_k index_k`` by axis (the constant under None), or None if it is not one."""
    match expression:
        case Index(axis):
            return {axis: 1.0}
        case Number(value):
            return {None: float(value)}
        case Apply("Cast", (body,)) if expression.dtype != _BOOL and body.dtype != _BOOL:
            return linear(body)
        case Apply("Neg", (body,)):
            return _scaled(linear(body), -1.0)
        case Apply("Add", (left, right)):
            return _added(linear(left), linear(right))
        case Apply("Sub", (left, right)):
            return _added(linear(left), _scaled(linear(right), -1.0))
        case Apply("Mul", (Number(factor), body)) | Apply("Mul", (body, Number(factor))):
            return _scaled(linear(body), float(factor))
        case _:
            return None


_Factors = Mapping[int | None, float]


def _scaled(factors: _Factors | None, by: float) -> _Factors | None:
    return None if factors is None else {axis: f * by for axis, f in factors.items()}


def _added(left: _Factors | None, right: _Factors | None) -> _Factors | None:
    if left is None or right is None:
        return None
    total = {axis: left.get(axis, 0.0) + right.get(axis, 0.0) for axis in {*left, *right}}
    return {axis: f for axis, f in total.items() if f or axis is None}


def always(condition: Expression) -> bool | None:
    """Return what a condition on indices is at every position; None if it may be either."""
    if isinstance(condition, Number):
        return bool(condition.value)
    if not isinstance(condition, Apply) or len(condition.operands) != 2:
        return None
    difference = linear(Apply("Sub", condition.operands, _INTEGER))
    if difference is None:
        return None
    if condition.op in {"LessOrEqual", "Less"}:
        difference = _scaled(difference, -1.0) or {}
    elif condition.op not in {"GreaterOrEqual", "Greater"}:
        return None
    least = difference.get(None, 0.0)
    grows = all(f >= 0 for axis, f in difference.items() if axis is not None)
    if grows and (least > 0 or (least == 0 and condition.op in {"GreaterOrEqual", "LessOrEqual"})):
        return True
    return None


def _chosen(condition: Expression, yes: bool, no: bool) -> Expression:
    if yes == no:
        return Number(float(yes), _BOOL)
    return condition if yes else apply("Not", (condition,), _BOOL)


def apply(op: str, operands: tuple[Expression, ...], dtype: onnx_ir.DataType) -> Expression:
    """Return an operator on elements, with what follows from constants already drawn."""
    made = Apply(op, operands, dtype)
    match made:
        case Apply("And", (a, b)) if always(a) or always(b):
            return b if always(a) else a
        case Apply("Cast", (body,)) if body.dtype == dtype:
            return body
        case Apply("Cast", (Number(value),)) if dtype != _BOOL:
            return Number(value, dtype)
        case Apply("Cast", (Apply("Where", (condition, Number(yes), Number(no))),)) if (
            dtype == _BOOL
        ):
            return _chosen(condition, bool(yes), bool(no))
        case Apply("Add", (a, Number(0.0))) | Apply("Add", (Number(0.0), a)):
            return a
        case Apply("Sub", (a, Number(0.0))):
            return a
        case Apply("Mul" | "Div", (a, Number(1.0))) | Apply("Mul", (Number(1.0), a)):
            return a
        case Apply("Not", (Apply("Not", (body,)),)):
            return body
        case Apply("Where", (condition, yes, no)) if (known := always(condition)) is not None:
            return yes if known else no
        case _:
            return made
