"""Take a mask apart: what hides keys, and what is added to the scores."""

import dataclasses
from collections.abc import Sequence
from functools import reduce

import onnx_ir

from whet.passes.attention.expression import (
    BATCH,
    HEAD,
    KEY,
    QUERY,
    Apply,
    Expression,
    Index,
    Leaf,
    Number,
    always,
    apply,
    linear,
    walk,
)
from whet.passes.attention.reading import Reader
from whet.passes.attention.separation import Product

__all__ = [
    "ABSORBS", "POSITIONS", "Mask", "hiding", "is_causal", "kept_finite", "read_mask", "write_mask",
]  # fmt: skip

ABSORBS = -1e30
"""What hides a key: added to a float32 score it leaves nothing of it, and its exponential is zero beside any other's.

A row of it is uniform. The lowest float32 would do so too by the standard, but ONNX Runtime's kernel takes a row of
that for one without keys.
"""
POSITIONS = tuple(Index(axis) for axis in (BATCH, HEAD, QUERY, KEY))
_BOOL = onnx_ir.DataType.BOOL
_FLIPPED = {
    "Less": "GreaterOrEqual",
    "LessOrEqual": "Greater",
    "Greater": "LessOrEqual",
    "GreaterOrEqual": "Less",
}


@dataclasses.dataclass
class Mask:
    """``sum(added)`` where all ``conditions`` hold, and ``fill`` elsewhere."""

    conditions: list[Expression] = dataclasses.field(default_factory=list[Expression])
    added: list[Expression] = dataclasses.field(default_factory=list[Expression])
    dtype: onnx_ir.DataType = _BOOL
    fill: float = float("-inf")

    @property
    def causal(self) -> bool:
        """Tell whether keys after the query are hidden."""
        return any(is_causal(condition) for condition in self.conditions)

    @property
    def others(self) -> list[Expression]:
        """Return the conditions beside the causal one."""
        return [condition for condition in self.conditions if not is_causal(condition)]


def read_mask(reader: Reader, value: onnx_ir.Value) -> Mask:
    """Read a mask of up to four dimensions that broadcasts to ``[batch, heads, queries, keys]``."""
    count = 0 if value.shape is None else len(value.shape)
    body = reader.read(value, POSITIONS[4 - count :])
    mask = Mask(dtype=body.dtype)
    if body.dtype == _BOOL:
        _hide(body, mask)
    else:
        _add(body, mask)
    return mask


def write_mask(
    dtype: onnx_ir.DataType,
    conditions: Sequence[Expression],
    added: Sequence[Expression],
    fill: float,
) -> Expression:
    """Return the expression of a mask: of booleans if nothing is added and ``dtype`` says so."""
    seen = reduce(lambda a, b: apply("And", (a, b), _BOOL), conditions) if conditions else None
    if dtype == _BOOL and seen is not None:
        return seen
    zero = Number(0.0, dtype)
    total = reduce(lambda a, b: apply("Add", (a, b), dtype), added) if added else zero
    return total if seen is None else apply("Where", (seen, total, Number(fill, dtype)), dtype)


def _hide(condition: Expression, mask: Mask) -> None:
    """Collect what must hold for a key to be seen."""
    match condition:
        case Apply("And", (a, b)):
            _hide(a, mask)
            _hide(b, mask)
        case Apply("Not", (Apply("Or", (a, b)),)):
            _hide(_negated(a), mask)
            _hide(_negated(b), mask)
        case Apply("Not", (Apply() as compared,)) if compared.op in _FLIPPED:
            _hide(_negated(compared), mask)
        case _ if always(condition):
            return
        case _:
            if condition not in mask.conditions:
                mask.conditions.append(condition)


def _negated(condition: Expression) -> Expression:
    match condition:
        case Apply("Not", (body,)):
            return body
        case Apply(op, operands) if op in _FLIPPED:
            return Apply(_FLIPPED[op], operands, _BOOL)
        case _:
            return apply("Not", (condition,), _BOOL)


def _add(body: Expression, mask: Mask) -> None:
    """Collect what is added to the scores."""
    match body:
        case Apply("Add", (a, b)):
            _add(a, mask)
            _add(b, mask)
        case Apply("Sub", (a, b)):
            _add(a, mask)
            _add(apply("Mul", (b, Number(-1.0, b.dtype)), b.dtype), mask)
        case Apply("Where", (condition, a, Number(fill))) if fill <= ABSORBS:
            mask.fill = max(mask.fill, fill)
            _hide(condition, mask)
            _add(a, mask)
        case Apply("Where", (condition, Number(fill), a)) if fill <= ABSORBS:
            mask.fill = max(mask.fill, fill)
            _hide(_negated(condition), mask)
            _add(a, mask)
        case Number(0.0):
            return
        case _:
            mask.added.append(body)


def is_causal(condition: Expression) -> bool:
    """Tell whether a condition says that the key is not after the query."""
    if not isinstance(condition, Apply) or len(condition.operands) != 2:
        return False
    left, right = (linear(operand) for operand in condition.operands)
    if left is None or right is None:
        return False
    if condition.op in {"LessOrEqual", "Less"}:
        left, right = right, left
    elif condition.op not in {"GreaterOrEqual", "Greater"}:
        return False
    axes = {*left, *right, None}
    difference = {axis: left.get(axis, 0.0) - right.get(axis, 0.0) for axis in axes}
    strict = condition.op in {"Less", "Greater"}
    wanted = {QUERY: 1.0, KEY: -1.0, None: 1.0 if strict else 0.0}
    return {a: f for a, f in difference.items() if f or a is None} == wanted


def hiding(condition: Expression) -> Product:
    """Return the factors of a condition on keys: one for every query, and 0 or :data:`ABSORBS` for a key."""
    dtype = onnx_ir.DataType.FLOAT
    choice = (condition, Number(0.0, dtype), Number(ABSORBS, dtype))
    return Product(Number(1.0, dtype), apply("Where", choice, dtype))


def kept_finite(product: Product) -> Product:
    """Bound what hides keys from below, where it is read from a tensor that may hold minus infinity."""
    right = product.right
    if not any(isinstance(part, Leaf) for part in walk(right)):
        return product
    floor = Number(ABSORBS, right.dtype)
    return dataclasses.replace(product, right=apply("Max", (right, floor), right.dtype))
