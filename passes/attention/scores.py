"""What feeds a softmax: scaled, capped and masked scores of queries and keys."""

import dataclasses
import math

import onnx_ir

from whet.analysis.sizes import KnownSizes
from whet.errors import Mismatch
from whet.ir.values import is_constant, is_op
from whet.passes.attention.products import Operand, Product, peel, read_product, scalar, swapped

__all__ = ["Factor", "NoProduct", "Scores", "Term", "read_scores"]

_STEPS = 24
"""Nodes between the product and the softmax."""
_FAR = -1e4
"""A fill at or below this is a mask: ``exp(fill - score)`` is zero for any score that is not as far below."""
_ABSORBING = -1e20
"""Whatever is added to a fill below this changes it in no format of float: its row stays uniform."""
_MOVES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")


class NoProduct(Mismatch):
    """No product of two computed values feeds the softmax: it is not that of an attention."""


@dataclasses.dataclass(frozen=True)
class Term:
    """What is added to the scores: ``factor * value``, or, with a ``fill``, that wherever the condition hides a key."""

    value: onnx_ir.Value
    at: int
    """Number of the layout of the scores it is combined with."""
    factor: float = 1.0
    fill: float | None = None
    shown: bool = True
    """The condition's value where the score stays."""


@dataclasses.dataclass(frozen=True)
class Factor:
    """A tensor that multiplies (or divides) the scores."""

    value: onnx_ir.Value
    at: int
    """Number of the layout of the scores it is combined with."""
    op_type: str


@dataclasses.dataclass
class Scores:
    """``softcap(scale * factors * q k') + terms``."""

    product: Product
    query: Operand
    key: Operand
    scale: float
    softcap: float = 0.0
    factors: list[Factor] = dataclasses.field(default_factory=list[Factor])
    terms: list[Term] = dataclasses.field(default_factory=list[Term])
    infinite: onnx_ir.Node | None = None
    """A Where that fills with minus infinity."""
    nodes: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    layouts: list[onnx_ir.Value] = dataclasses.field(default_factory=list[onnx_ir.Value])
    """A value for every grouping of the axes, from the softmax to the product; masks do not widen these yet."""


def read_scores(value: onnx_ir.Value, known: KnownSizes) -> Scores:
    """Read what ``value`` holds, up to the product of queries and keys; raises Mismatch."""
    return _Reader(known).read(value)


class _Reader:
    """Walks from the softmax upstream. ``outer`` multiplies everything that is still to come."""

    def __init__(self, known: KnownSizes) -> None:
        self._known = known
        self._distances = _Distances(known)
        self._outer = 1.0
        self._cap: float | None = None
        self._factors: list[Factor] = []
        self._terms: list[Term] = []
        self._infinite: onnx_ir.Node | None = None
        self._nodes: list[onnx_ir.Node] = []
        self._layouts: list[onnx_ir.Value] = []

    def read(self, value: onnx_ir.Value) -> Scores:
        if self._distances.of(value) is None:
            raise NoProduct(_what_feeds(value))
        for _ in range(_STEPS):
            if len(value.uses()) > 1 or value.is_graph_output():
                raise Mismatch(f"the scores '{value.name}' are read elsewhere too")
            node = value.producer()
            assert node is not None
            product = read_product(node, self._known)
            if product is not None:
                return self._finish(product)
            self._nodes.append(node)
            value = self._step(node)
        raise Mismatch(f"more than {_STEPS} nodes between the scores and the softmax")

    def _step(self, node: onnx_ir.Node) -> onnx_ir.Value:
        if is_op(node, *_MOVES):
            return self._move(node)
        if is_op(node, "Tanh"):
            return self._tanh(node)
        if is_op(node, "Neg"):
            self._outer = -self._outer
        if is_op(node, "Identity", "Neg"):
            return _input(node, 0)
        if is_op(node, "Where"):
            return self._where(node)
        side = self._side(node)
        score, other = _input(node, side), _input(node, 1 - side)
        if is_op(node, "Mul", "Div"):
            self._multiply(node, other, side)
        else:
            self._add(node, other, side)
        return score

    def _move(self, node: onnx_ir.Node) -> onnx_ir.Value:
        before, after = _input(node, 0), node.outputs[0]
        old, new = self._known.shape(before), self._known.shape(after)
        if old is None or new is None or None in old[-2:] or old[-2:] != new[-2:]:
            raise Mismatch(f"{node.op_type} '{node.name}' may split queries or keys")
        self._layouts.append(after)
        return before

    def _tanh(self, node: onnx_ir.Node) -> onnx_ir.Value:
        if self._cap is not None:
            raise Mismatch("the scores are capped twice")
        if self._factors:
            raise Mismatch("a tensor scales the capped scores")
        self._cap, self._outer = self._outer, 1.0
        return _input(node, 0)

    def _where(self, node: onnx_ir.Node) -> onnx_ir.Value:
        side = self._side(node)
        condition, filled = _input(node, 0), _input(node, 3 - side)
        number = scalar(filled, len(self._known.shape(node.outputs[0]) or ()))
        if number is None:
            raise Mismatch(f"Where '{node.name}' fills with something computed")
        fill = number * self._outer
        if not fill <= _FAR:
            raise Mismatch(f"Where '{node.name}' fills with {fill:g}, not far below the scores")
        if self._terms and fill > _ABSORBING:
            raise Mismatch(f"a mask is added behind Where '{node.name}', which fills with {fill:g}")
        if math.isinf(fill):
            self._infinite = self._infinite or node
        self._note(Term(condition, len(self._layouts), fill=fill, shown=side == 1))
        return _input(node, side)

    def _multiply(self, node: onnx_ir.Node, other: onnx_ir.Value, side: int) -> None:
        number = scalar(other)
        if node.op_type == "Div" and side == 1:
            raise Mismatch(f"the scores divide in Div '{node.name}'")
        if number:
            self._outer *= number if node.op_type == "Mul" else 1.0 / number
            return
        shape = self._known.shape(other)
        if shape is None or (shape and shape[-1] != 1):
            raise Mismatch(f"what {node.op_type} '{node.name}' scales with may vary between keys")
        self._factors.append(Factor(other, len(self._layouts), node.op_type))

    def _add(self, node: onnx_ir.Node, other: onnx_ir.Value, side: int) -> None:
        sign = -1.0 if node.op_type == "Sub" else 1.0
        factor = self._outer * (sign if side == 0 else 1.0)
        self._note(Term(other, len(self._layouts), factor))
        self._outer *= sign if side == 1 else 1.0

    def _note(self, term: Term) -> None:
        if self._cap is not None:
            raise Mismatch("a mask is added before the scores are capped")
        if self._factors:
            raise Mismatch("a tensor scales the masked scores")
        self._terms.append(term)

    def _side(self, node: onnx_ir.Node) -> int:
        """Return which operand the scores are: the one whose product is nearest."""
        far = [(self._distances.of(value), at) for at, value in enumerate(node.inputs)]
        reached = [(distance, at) for distance, at in far if distance is not None]
        if len(reached) > 1 and not is_op(node, "Add", "Sub"):
            raise Mismatch(f"{node.op_type} '{node.name}' combines two products")
        return min(reached)[1]

    def _finish(self, product: Product) -> Scores:
        out = product.node.outputs[0]
        left, right = product.left, product.right
        if product.order is not None and product.order == swapped(len(product.order)):
            left, right = right, left
        elif product.order is not None:
            raise Mismatch(
                f"the scores of Einsum '{product.node.name}' do not end in queries, keys"
            )
        if product.addend is not None:
            factor = self._outer * product.addend_factor
            self._note(Term(product.addend, len(self._layouts), factor))
        query, first, above = peel(left, self._known)
        key, second, beyond = peel(right, self._known)
        inner = self._outer * product.factor * first * second
        return Scores(
            product=product,
            query=query,
            key=key,
            scale=inner if self._cap is None else self._cap * inner,
            softcap=0.0 if self._cap is None else abs(self._cap),
            factors=self._factors,
            terms=self._terms,
            infinite=self._infinite,
            nodes=[*self._nodes, product.node, *above, *beyond],
            layouts=[*self._layouts, out],
        )


def _input(node: onnx_ir.Node, at: int) -> onnx_ir.Value:
    value = node.inputs[at]
    if value is None:
        raise Mismatch(f"{node.op_type} '{node.name}' lacks an operand")
    return value


class _Distances:
    """How many nodes lie between a value and the nearest product above it."""

    def __init__(self, known: KnownSizes) -> None:
        self._known = known
        self._found: dict[onnx_ir.Value, int | None] = {}

    def of(self, value: onnx_ir.Value | None, steps: int = _STEPS) -> int | None:
        """Return the distance; None if there is no product within reach."""
        node = None if value is None else value.producer()
        if value is None or node is None or steps == 0 or is_constant(value):
            return None
        if value not in self._found:
            self._found[value] = self._measure(node, steps)
        return self._found[value]

    def _measure(self, node: onnx_ir.Node, steps: int) -> int | None:
        if read_product(node, self._known) is not None:
            return 0
        found = [self.of(value, steps - 1) for value in _ways(node)]
        reached = [distance for distance in found if distance is not None]
        return 1 + min(reached) if reached else None


def _ways(node: onnx_ir.Node) -> list[onnx_ir.Value | None]:
    """Return the inputs through which the scores may come."""
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        return list(node.inputs)
    if is_op(node, "Where"):
        return list(node.inputs[1:])
    return list(node.inputs[:1]) if is_op(node, "Tanh", "Neg", "Identity", *_MOVES) else []


def _what_feeds(value: onnx_ir.Value) -> str:
    """Say what stands where the product was expected, following single-reader arithmetic."""
    for _ in range(_STEPS):
        node = value.producer()
        if node is None:
            return f"'{value.name}' stands where a product of queries and keys was expected"
        ways = [v for v in _ways(node) if v is not None and not is_constant(v)]
        if len(ways) != 1:
            break
        value = ways[0]
    node = value.producer()
    assert node is not None
    where = f"{node.op_type} '{node.name}'"
    return f"{where} stands where a product of queries and keys was expected"
