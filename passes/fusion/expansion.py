"""Read arithmetic as a sum of products, whatever the order in which a graph computes it.

``(x - m) / Sqrt(s) * g + b`` and ``x * (s**-0.5 * g) + (b - m * (s**-0.5 * g))`` are one and the same sum: ``g`` times
``x s**-0.5``, ``-g`` times ``m s**-0.5``, and ``b``. Casts between floating-point types are looked through, so sums are
equal as real numbers, not bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant, is_constant, is_op

__all__ = [
    "ARITHMETIC",
    "Expansion",
    "Product",
    "Terms",
    "downstream",
    "number",
    "uncast",
    "upstream",
]

Floats = NDArray[np.float64]
Product = frozenset[tuple[onnx_ir.Value, float]]
"""Values with their exponents; the empty product is one."""
Terms = Mapping[Product, Floats]
"""Product -> its constant factor, an array that broadcasts as the graph's constants did."""

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Reciprocal", "Sqrt", "Pow", "Cast")
_ONE: Product = frozenset()
_MOST_TERMS = 12
_LARGEST_CONSTANT = 1 << 20


def uncast(value: onnx_ir.Value) -> onnx_ir.Value:
    """Return the value before any casts from one floating-point type to another."""
    while True:
        node = value.producer()
        source = node.inputs[0] if node is not None and is_op(node, "Cast") else None
        if node is None or source is None or source.dtype is None:
            return value
        target = onnx_ir.DataType(attribute_int(node, "to", 0))
        if not (source.dtype.is_floating_point() and target.is_floating_point()):
            return value
        value = source


def number(value: onnx_ir.Value | None) -> float | None:
    """Return a constant of one element, cast or not, as a number."""
    value = None if value is None else uncast(value)
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant(value)
    return None if array is None or array.dtype.kind in "OSU" else float(array.reshape(-1)[0])


class Expansion:
    """Expand values into sums of products of other values.

    Only values of ``inside`` are taken apart; all others are factors as they are. ``represent`` names the factor that
    stands for a value (equal values computed twice get one), or None where it is to be taken apart.
    """

    def __init__(
        self,
        inside: Mapping[onnx_ir.Value, int],
        represent: Callable[[onnx_ir.Value], onnx_ir.Value | None],
    ) -> None:
        self._inside = inside
        self._represent = represent
        self._known: dict[onnx_ir.Value, Terms] = {}

    def terms(self, value: onnx_ir.Value) -> Terms:
        """Return the sum; raises Mismatch where the expression is too large."""
        value = uncast(value)
        if value not in self._known:
            found = self._expand(value)
            if len(found) > _MOST_TERMS:
                raise Mismatch(f"the sum at '{value.name}' has more than {_MOST_TERMS} terms")
            self._known[value] = found
        return self._known[value]

    def _expand(self, value: onnx_ir.Value) -> Terms:
        known = self._represent(value)
        if known is not None:
            return {frozenset([(known, 1.0)]): np.ones(())}
        alone: Terms = {frozenset([(value, 1.0)]): np.ones(())}
        if is_constant(value):
            return _constant_term(value) or alone
        node = value.producer()
        if node is None or value not in self._inside or not is_op(node, *ARITHMETIC):
            return alone
        return self._combine(node) or alone

    def _combine(self, node: onnx_ir.Node) -> Terms | None:
        """Return what an arithmetic node computes; None where that is no sum of products."""
        operands = [self.terms(v) for v in node.inputs if v is not None]
        if node.op_type in ("Neg", "Reciprocal", "Sqrt"):
            return _UNARY[node.op_type](operands[0])
        if len(operands) != 2:
            return None
        left, right = operands
        if node.op_type == "Pow":
            return _power_of(left, number(node.inputs[1]))
        if node.op_type == "Add":
            return _add(left, right)
        if node.op_type == "Sub":
            return _add(left, _negate(right))
        if node.op_type == "Div":
            inverse = _power(right, -1.0)
            return None if inverse is None else _multiply(left, inverse)
        return _multiply(left, right)


def _constant_term(value: onnx_ir.Value) -> Terms | None:
    array = constant(value)
    if array is None or array.size > _LARGEST_CONSTANT or array.dtype.kind in "OSU":
        return None
    return {_ONE: array.astype(np.float64)}


def _add(left: Terms, right: Terms) -> Terms:
    found = dict(left)
    for product, factor in right.items():
        found[product] = found[product] + factor if product in found else factor
    return found


def _negate(terms: Terms) -> Terms:
    return {product: -factor for product, factor in terms.items()}


def _multiply(left: Terms, right: Terms) -> Terms:
    if len(left) * len(right) > 4 * _MOST_TERMS:
        raise Mismatch("the product has too many terms")
    found: dict[Product, Floats] = {}
    for one, factor in left.items():
        for other, second in right.items():
            product, both = _join(one, other), factor * second
            found[product] = found[product] + both if product in found else both
    return found


def _join(one: Product, other: Product) -> Product:
    powers = dict(one)
    for value, exponent in other:
        powers[value] = powers.get(value, 0.0) + exponent
    return frozenset((value, exponent) for value, exponent in powers.items() if exponent)


def _power(terms: Terms, exponent: float) -> Terms | None:
    """Return ``c x**a`` to a power; a sum has none (but small whole ones)."""
    if len(terms) != 1:
        return None
    ((product, factor),) = terms.items()
    whole = float(exponent).is_integer()
    if (not whole and (factor <= 0).any()) or (exponent < 0 and (factor == 0).any()):
        return None
    powers = frozenset((value, power * exponent) for value, power in product)
    return {powers: np.asarray(factor**exponent)}


def _power_of(terms: Terms, exponent: float | None) -> Terms | None:
    if exponent is None:
        return None
    if len(terms) > 1 and exponent in (2.0, 3.0):
        square = _multiply(terms, terms)
        return square if exponent == 2 else _multiply(square, terms)
    return _power(terms, exponent)


_UNARY: Mapping[str, Callable[[Terms], Terms | None]] = {
    "Neg": _negate,
    "Reciprocal": lambda terms: _power(terms, -1.0),
    "Sqrt": lambda terms: _power(terms, 0.5),
}


def downstream(
    graph: onnx_ir.Graph, starts: Sequence[onnx_ir.Value], depth: int, most: int = 200
) -> dict[onnx_ir.Value, int]:
    """Return what arithmetic in ``graph`` computes from ``starts`` in at most ``depth`` steps, nearest first."""
    found: dict[onnx_ir.Value, int] = dict.fromkeys(starts, 0)
    for value in _growing(found):
        if found[value] == depth or len(found) > most:
            continue
        for node in value.consumers():
            if is_op(node, *ARITHMETIC) and node.graph is graph:
                found.setdefault(node.outputs[0], found[value] + 1)
    return found


def upstream(value: onnx_ir.Value, depth: int) -> dict[onnx_ir.Value, int]:
    """Return what arithmetic computes ``value`` from in at most ``depth`` steps, nearest first; no constants."""
    found: dict[onnx_ir.Value, int] = {value: 0}
    for at in _growing(found):
        node = at.producer()
        if found[at] == depth or node is None or not is_op(node, *ARITHMETIC):
            continue
        for operand in node.inputs:
            if operand is not None and not is_constant(operand):
                found.setdefault(operand, found[at] + 1)
    return found


def _growing(found: Mapping[onnx_ir.Value, int]) -> Iterator[onnx_ir.Value]:
    seen = 0
    while seen < len(found):
        yield from (part := list(found)[seen:])
        seen += len(part)
