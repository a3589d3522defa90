"""Sizes as integer polynomials over the symbolic dimensions: ``2*batch*seq + 1``."""

import ast
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable

__all__ = ["Expression", "Size", "add", "divide", "multiply", "parse_size", "product", "subtract"]

Term = tuple[str, ...]
"""A product of symbols, sorted; the empty product is 1."""


@dataclasses.dataclass(frozen=True)
class Expression:
    """A sum of products of symbols that is not a plain number; equal sums are equal objects."""

    terms: tuple[tuple[Term, int], ...]

    def __str__(self) -> str:
        """Print so that Python's arithmetic reads it back."""
        return " + ".join(_print_term(term, factor) for term, factor in self.terms)


Size = int | Expression


def _print_term(term: Term, factor: int) -> str:
    symbols = [name if name.isidentifier() or "(" in name else f"({name})" for name in term]
    return "*".join([str(factor), *symbols] if factor != 1 or not term else symbols)


def _make(terms: Counter[Term]) -> Size:
    kept = tuple(sorted((term, factor) for term, factor in terms.items() if factor))
    if not kept:
        return 0
    if kept[0][0] == () and len(kept) == 1:
        return kept[0][1]
    return Expression(kept)


def _terms(size: Size) -> Counter[Term]:
    return Counter({(): size}) if isinstance(size, int) else Counter(dict(size.terms))


def add(left: Size, right: Size) -> Size:
    """Return the sum."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    terms = _terms(left)
    terms.update(_terms(right))
    return _make(terms)


def subtract(left: Size, right: Size) -> Size:
    """Return the difference."""
    return add(left, multiply(-1, right))


def multiply(left: Size, right: Size) -> Size:
    """Return the product."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    terms: Counter[Term] = Counter()
    for one, first in _terms(left).items():
        for other, second in _terms(right).items():
            terms[tuple(sorted(one + other))] += first * second
    return _make(terms)


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of all; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = multiply(total, size)
    return total


def divide(left: Size, right: Size) -> Size | None:
    """Return the quotient rounded down; a division of symbols that leaves a rest becomes a symbol of its own."""
    if right == 0:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    exact = _divide_exactly(left, right)
    return Expression((((f"(({left})//({right}))",), 1),)) if exact is None else exact


def _divide_exactly(left: Size, right: Size) -> Size | None:
    if left == right:
        return 1
    divisor = list(_terms(right).items())
    if len(divisor) != 1:
        return None
    symbols, factor = Counter(divisor[0][0]), divisor[0][1]
    terms: Counter[Term] = Counter()
    for term, number in _terms(left).items():
        have = Counter(term)
        if number % factor or symbols - have:
            return None
        terms[tuple(sorted((have - symbols).elements()))] += number // factor
    return _make(terms)


_OPERATORS: dict[type, Callable[[Size, Size], Size | None]] = {
    ast.Add: add,
    ast.Sub: subtract,
    ast.Mult: multiply,
    ast.FloorDiv: divide,
}


@functools.lru_cache(maxsize=4096)
def parse_size(text: str) -> Size:
    """Read the name of a dimension; what is not arithmetic over names is one symbol."""
    try:
        found = _parse(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        found = None
    return Expression((((text,), 1),)) if found is None else found


def _parse(node: ast.expr) -> Size | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return Expression((((node.id,), 1),))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _parse(node.left), _parse(node.right)
        return None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
    return None
