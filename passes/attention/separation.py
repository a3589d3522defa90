"""Split a bias into functions of the query times functions of the key.

Each rule is exact: sums and products of separable functions, integer powers, and the addition theorems of cosine and
sine. What a term belongs to follows from the axes that an expression depends on.
"""

import dataclasses
from collections.abc import Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.passes.attention.expression import (
    KEY,
    QUERY,
    Apply,
    Expression,
    Leaf,
    Number,
    Sum,
    apply,
    axes_of,
    linear,
)

__all__ = ["Product", "rank_of", "separate"]

_MOST = 64
"""More terms are not collected: no rank as high pays."""


@dataclasses.dataclass(frozen=True)
class Product:
    """``sum_c left(query, c) * right(key, c)``: one column of the factors, or one for each position of an axis c."""

    left: Expression
    right: Expression
    axis: int | None = None
    size: int = 1


def rank_of(terms: Sequence[Product]) -> int:
    """Return how many columns the factors have."""
    return sum(term.size for term in terms)


def separate(bias: Expression, *, causal: bool = False) -> tuple[Product, ...]:
    """Return terms whose sum is the bias; raise Mismatch with what depends on both query and key.

    With ``causal`` only keys up to the query count, so that ``|i - j|`` is ``i - j``.
    """
    found = _separate(bias, causal)
    if rank_of(found) > _MOST:
        raise Mismatch(f"the bias has {rank_of(found)} terms")
    return found


def _separate(body: Expression, causal: bool) -> tuple[Product, ...]:
    one = Number(1.0, body.dtype)
    axes = axes_of(body)
    if KEY not in axes:
        return (Product(body, one),)
    if QUERY not in axes:
        return (_of_key(body),)
    match body:
        case Apply("Add", (a, b)):
            return _separate(a, causal) + _separate(b, causal)
        case Apply("Sub", (a, b)):
            return _separate(a, causal) + _negated(_separate(b, causal), body.dtype)
        case Apply("Neg", (a,)):
            return _negated(_separate(a, causal), body.dtype)
        case Apply("Mul", (a, b)) if a == b:
            return _square(_separate(a, causal), body.dtype)
        case Apply("Mul", (a, b)):
            return _product(_separate(a, causal), _separate(b, causal), body.dtype)
        case Apply("Div", (a, b)) if len(axes_of(b) & {QUERY, KEY}) < 2:
            inverse = apply("Div", (Number(1.0, b.dtype), b), b.dtype)
            return _product(_separate(a, causal), _separate(inverse, causal), body.dtype)
        case Apply("Pow", (a, Number(2.0))):
            return _square(_separate(a, causal), body.dtype)
        case Apply("Cast", (a,)) if _widens(a.dtype, body.dtype):
            return _cast(_separate(a, causal), body.dtype)
        case Apply("Cos" | "Sin" as op, (a,)):
            return _angles(op, _separate(a, causal), body.dtype)
        case Apply("Abs", (a,)) if causal and (sign := _sign_below_diagonal(a)):
            terms = _separate(a, causal)
            return terms if sign > 0 else _negated(terms, body.dtype)
        case Sum():
            return _sum(body, causal)
        case _:
            raise Mismatch(_why(body))


def _of_key(body: Expression) -> Product:
    """Put what does not depend on the key to the left: a slope per head then is not repeated for every key."""
    match body:
        case Apply("Mul", (a, b)) if KEY not in axes_of(a):
            return Product(a, b)
        case Apply("Mul", (a, b)) if KEY not in axes_of(b):
            return Product(b, a)
        case _:
            return Product(Number(1.0, body.dtype), body)


def _why(body: Expression) -> str:
    match body:
        case Apply(op, _):
            return f"{op} of a query and a key together is no finite sum of products"
        case Leaf(tensor):
            maker = tensor.producer()
            what = f"by {maker.op_type}" if maker is not None else "outside the graph"
            reason = f" ({body.why})" if body.why else ""
            return f"'{tensor.name}', made {what}, depends on query and key together{reason}"
        case _:
            return "it depends on query and key together"


def _negated(terms: tuple[Product, ...], dtype: onnx_ir.DataType) -> tuple[Product, ...]:
    return tuple(
        dataclasses.replace(term, left=apply("Mul", (term.left, Number(-1.0, dtype)), dtype))
        for term in terms
    )


def _product(
    left: tuple[Product, ...], right: tuple[Product, ...], dtype: onnx_ir.DataType
) -> tuple[Product, ...]:
    if rank_of(left) * rank_of(right) > _MOST:
        raise Mismatch(f"the bias has more than {_MOST} terms")
    return tuple(_times(a, b, dtype) for a in left for b in right)


def _square(terms: tuple[Product, ...], dtype: onnx_ir.DataType) -> tuple[Product, ...]:
    """Return the squares, and every product of two different terms once, doubled."""
    if rank_of(terms) ** 2 > _MOST:
        raise Mismatch(f"the bias has more than {_MOST} terms")
    two = Number(2.0, dtype)
    found: list[Product] = []
    for k, a in enumerate(terms):
        found.append(_times(a, a, dtype))
        doubled = dataclasses.replace(a, left=apply("Mul", (a.left, two), dtype))
        found += [_times(doubled, b, dtype) for b in terms[k + 1 :]]
    return tuple(found)


def _times(a: Product, b: Product, dtype: onnx_ir.DataType) -> Product:
    if a.axis is not None and b.axis is not None:
        raise Mismatch("it is a product of sums over positions")
    return Product(
        apply("Mul", (a.left, b.left), dtype),
        apply("Mul", (a.right, b.right), dtype),
        a.axis if a.axis is not None else b.axis,
        a.size * b.size,
    )


def _widens(old: onnx_ir.DataType, new: onnx_ir.DataType) -> bool:
    """Tell whether a cast keeps sums and products of positions."""
    return new.is_floating_point() and old != onnx_ir.DataType.BOOL


def _cast(terms: tuple[Product, ...], dtype: onnx_ir.DataType) -> tuple[Product, ...]:
    return tuple(
        dataclasses.replace(
            term,
            left=apply("Cast", (term.left,), dtype),
            right=apply("Cast", (term.right,), dtype),
        )
        for term in terms
    )


def _angles(op: str, terms: tuple[Product, ...], dtype: onnx_ir.DataType) -> tuple[Product, ...]:
    """Use cos(a + b) = cos a cos b - sin a sin b and sin(a + b) = sin a cos b + cos a sin b."""
    one_sided = [_one_sided(term, dtype) for term in terms]
    a: Expression = Number(0.0, dtype)
    b = a
    for of_query, part in one_sided:
        if of_query:
            a = apply("Add", (a, part), dtype)
        else:
            b = apply("Add", (b, part), dtype)

    def wave(kind: str, angle: Expression) -> Expression:
        return apply(kind, (angle,), dtype)

    if op == "Cos":
        second = Product(wave("Sin", a), wave("Sin", b))
        return (Product(wave("Cos", a), wave("Cos", b)), *_negated((second,), dtype))
    return (Product(wave("Sin", a), wave("Cos", b)), Product(wave("Cos", a), wave("Sin", b)))


def _one_sided(term: Product, dtype: onnx_ir.DataType) -> tuple[bool, Expression]:
    """Return whether an addend of an angle belongs to the query, and the addend."""
    if term.axis is not None or (QUERY in axes_of(term.left) and KEY in axes_of(term.right)):
        raise Mismatch("an angle is not a sum of a function of the query and one of the key")
    of_query = KEY not in axes_of(term.right)
    return of_query, apply("Mul", (term.left, term.right), dtype)


def _sign_below_diagonal(body: Expression) -> int:
    """Return the sign of ``f (i - j)`` for keys up to the query: that of f; 0 if it is not of that form."""
    factors = linear(body)
    if factors is None or factors.get(None, 0.0) or set(factors) - {QUERY, KEY, None}:
        return 0
    if factors.get(QUERY, 0.0) != -factors.get(KEY, 0.0):
        return 0
    return 1 if factors.get(QUERY, 0.0) > 0 else -1


def _sum(body: Sum, causal: bool) -> tuple[Product, ...]:
    """Separate what is summed; a term of both query and key becomes a column for each position of the sum."""
    return tuple(_summed(term, body) for term in _separate(body.body, causal))


def _summed(term: Product, body: Sum) -> Product:
    if term.axis is not None:
        raise Mismatch("it is a sum of sums over positions")
    left, right = body.axis in axes_of(term.left), body.axis in axes_of(term.right)
    if left and right:
        return Product(term.left, term.right, body.axis, body.size)
    if right:
        return Product(term.left, Sum(body.axis, body.size, term.right, body.dtype))
    if left:
        return Product(Sum(body.axis, body.size, term.left, body.dtype), term.right)
    times = Number(float(body.size), body.dtype)
    return Product(apply("Mul", (term.left, times), body.dtype), term.right)
