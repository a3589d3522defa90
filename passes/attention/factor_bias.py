"""Replace an additive bias by factors appended to queries and keys, where its formula is in the graph."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.activations import observed_shapes
from whet.errors import Mismatch
from whet.ir.values import constant, is_constant
from whet.passes.attention.break_even import Payoff, check_pays
from whet.passes.attention.call import AttentionCall, AttentionSizes, read_masked
from whet.passes.attention.emission import Emitter
from whet.passes.attention.expression import (
    HEAD,
    KEY,
    QUERY,
    Apply,
    Expression,
    Index,
    Last,
    Leaf,
    Number,
    apply,
    axes_of,
    linear,
    walk,
)
from whet.passes.attention.factors import append_factors
from whet.passes.attention.masks import Mask, hiding, kept_finite, read_mask, write_mask
from whet.passes.attention.reading import Reader
from whet.passes.attention.separation import Product, rank_of, separate
from whet.passes.base import Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["FactorBias"]

_FLOAT = onnx_ir.DataType.FLOAT
_SMALL = 1e4
_VECTOR = 8
"""Head sizes that are multiples of it suit vector units better."""
_EXACT_BITS = 12
"""A slope of so many bits times a position below 4096 is exact in float32."""


@dataclasses.dataclass(frozen=True)
class FactorBias(Pass):
    """Replace ``softmax(q k' / s + B) v`` by ``softmax([U, q / s] [V, k]') v`` where the graph computes ``B = U V'``.

    Read from the graph by meaning (FlashBias, 2025): ALiBi, key-padding masks (rank 1: ones times the mask), squared
    and inner-product distances of coordinates, cosines and sines of differences, and sums of these. U and V are
    computed from what B was computed from and have one row for each query or key, so that no tensor of queries times
    keys is made; a dynamic length stays dynamic. What depends on the query alone is dropped: softmax does not see it.
    What is no finite sum of products stays a mask, if the rest still pays.

    Factors add columns to the heads but let the runtime's fast kernels, which take no bias, do the work: that pays from
    some length on, which is measured. Below it the pass declines and says where it lies.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    when: Literal["measured", "always"] = "measured"
    """``always``: also where it was not measured to be faster."""
    most: int = option(32, at_least=1)
    """Biases of a higher rank are left alone."""
    padded_rows: Literal["keep", "any"] = "keep"
    """``any``: nobody reads the results of queries all of whose keys are hidden (left padding)."""

    def apply(self, work: Workbench) -> None:
        """Visit every Attention with a bias that the graph computes."""
        calls = [
            call for node in work.nodes("Attention") if (call := read_masked(node)) is not None
        ]
        operands = [v for c in calls for v in (c.q, c.k, c.v, c.mask) if v is not None]
        context = work.context
        shapes = observed_shapes(work.model, operands, context.bindings, context.threads)
        for call in calls:
            work.coverage.matched += 1
            try:
                self._propose(work, call, call.sizes(shapes))
            except Mismatch as reason:
                work.decline(call.node, str(reason))

    def _propose(self, work: Workbench, call: AttentionCall, sizes: AttentionSizes) -> None:
        assert call.mask is not None
        if call.q.dtype != _FLOAT:
            raise Mismatch("the operands are not float32")
        reader = Reader()
        parts = _take_apart(read_mask(reader, call.mask), call, self.padded_rows == "any")
        rank = rank_of(parts.terms)
        if rank > self.most:
            raise Mismatch(f"the bias has rank {rank}, at most {self.most} is tried")
        if sizes.heads != sizes.key_heads and any(HEAD in axes_of(t.right) for t in parts.terms):
            raise Mismatch("a factor of the keys differs by head, but heads share their keys")
        width = rank if self.when == "always" else _measured_width(work, call, sizes, parts)
        build = work.builder(call.node)
        emitter = Emitter(build, call, _FLOAT)
        left, right = emitter.factors(parts.terms)
        if width > rank:
            empty = build.constant(np.zeros((1, 1, 1, width - rank), np.float32))
            left, right = [empty, *left], [empty, *right]
        body = parts.mask()
        mask = None if body is None else emitter.mask(body)
        new = append_factors(build, call, left, right, mask=mask, causal=parts.causal)
        if parts.hidden and math.isinf(parts.whole.fill):
            new = emitter.zero_unless_any(parts.hidden, new)
        old = (call.node, *reversed(reader.nodes))
        work.propose(
            Proposal(
                old, ((call.node.outputs[0], new),), tuple(build.nodes), tuple(build.initializers)
            )
        )


def _measured_width(
    work: Workbench, call: AttentionCall, sizes: AttentionSizes, parts: "_Parts"
) -> int:
    """Return how many columns to append: empty ones round the head size up where that was measured to be faster."""
    rank = rank_of(parts.terms)
    found: list[Payoff] = []
    reasons: list[Mismatch] = []
    widths = sorted({rank, rank + -(sizes.head + rank) % _VECTOR})
    for width in widths:
        try:
            found.append(
                check_pays(
                    work,
                    call,
                    sizes,
                    width,
                    mask_kind=parts.kind,
                    mask_shape=parts.shape(sizes),
                    causal=parts.causal,
                    advise=not found and width == widths[-1],
                )
            )
        except Mismatch as reason:
            reasons.append(reason)
    if not found:
        raise reasons[-1]
    return min(found, key=lambda payoff: payoff.ms_after).rank


@dataclasses.dataclass
class _Parts:
    """A mask taken apart: factors, and what is left."""

    terms: tuple[Product, ...]
    causal: bool
    hidden: list[Expression]
    """Conditions on keys that became factors."""
    conditions: list[Expression]
    added: list[Expression]
    whole: Mask

    @property
    def kind(self) -> Literal["", "float", "bool"]:
        """Return the element type of what is left as a mask."""
        body = self.mask()
        if body is None:
            return ""
        return "bool" if body.dtype == onnx_ir.DataType.BOOL else "float"

    def mask(self) -> Expression | None:
        """Return what is left as a mask."""
        if not self.conditions and not self.added:
            return None
        dtype = _FLOAT if self.added else self.whole.dtype
        return write_mask(dtype, self.conditions, self.added, self.whole.fill)

    def shape(self, sizes: AttentionSizes) -> tuple[int, ...] | None:
        """Return the shape of what is left."""
        body = self.mask()
        if body is None:
            return None
        found = axes_of(body)
        full = (sizes.batch, sizes.heads, sizes.queries, sizes.keys)
        return tuple(size if axis in found else 1 for axis, size in enumerate(full))


def _take_apart(mask: Mask, call: AttentionCall, any_rows: bool) -> _Parts:
    """Sort what the mask is made of into factors, the causal flag and a rest."""
    causal = call.causal or (mask.causal and (any_rows or not mask.others))
    conditions = mask.others if causal else mask.conditions
    hidden = [c for c in conditions if QUERY not in axes_of(c)]
    if len(hidden) < len(conditions) or (causal and not any_rows):
        hidden = []
    terms = [hiding(condition) for condition in hidden]
    added: list[Expression] = []
    reasons: list[str] = []
    for part in mask.added:
        try:
            terms += separate(part, causal=causal)
        except Mismatch as reason:
            reasons.append(str(reason))
            added.append(part)
    found = _refined(_merged([term for term in terms if not _vanishes(term)]), causal)
    if not found:
        raise Mismatch("; ".join(reasons) or _why_none(mask, causal))
    rest = [condition for condition in conditions if condition not in hidden]
    return _Parts(found, causal, hidden, rest, added, mask)


def _why_none(mask: Mask, causal: bool) -> str:
    if causal and mask.others:
        return (
            "keys are hidden by a causal and another mask: a query that sees none would change "
            "(padded_rows=any allows that)"
        )
    return "the mask only hides pairs of query and key, which is no low-rank bias"


def _vanishes(term: Product) -> bool:
    """Tell whether a term is the same for all keys, and known to be small: then softmax does not see it."""
    if KEY in axes_of(term.right) or KEY in axes_of(term.left):
        return False
    for part in (*walk(term.left), *walk(term.right)):
        if isinstance(part, Number) and abs(part.value) > _SMALL:
            return False
        if isinstance(part, Leaf) and not is_constant(part.tensor):
            return False
    return True


def _refined(terms: Sequence[Product], causal: bool) -> tuple[Product, ...]:
    return tuple(new for term in terms for new in _against_rounding(term, causal))


def _against_rounding(term: Product, causal: bool) -> list[Product]:
    """Keep large numbers out of the scores that matter.

    A slope times the position of the key grows with the length, and the scores added to it lose as many bits. Softmax
    does not see what all keys have in common, so that positions may be counted from wherever the weight is: from the
    query under a causal mask, else from the end of the keys that the slope points to. Against a float64 reference that
    takes the error at 4096 keys from 1e-5, which biases of positions counted from 0 have, to 1e-7. What hides keys is
    kept finite.
    """
    if term.axis is not None or QUERY in axes_of(term.left):
        return [term]
    if (factors := linear(term.right)) is not None and factors.get(KEY):
        return _from_the_query(term) if causal else _from_the_end(term)
    return [kept_finite(term)]


def _position(axis: int) -> Expression:
    return apply("Cast", (Index(axis),), _FLOAT)


def _slope(term: Product, part: Expression) -> Expression:
    step = (linear(term.right) or {}).get(KEY, 0.0)
    return apply("Mul", (part, Number(step, _FLOAT)), _FLOAT)


def _from_the_query(term: Product) -> list[Product]:
    """Return ``slope (key - query)``: both products are exact, so that they cancel without a trace."""
    found: list[Product] = []
    query = apply("Mul", (Number(-1.0, _FLOAT), _position(QUERY)), _FLOAT)
    for part in _exact_parts(term.left):
        slope = _slope(term, part)
        found += [
            Product(slope, _position(KEY)),
            Product(apply("Mul", (slope, query), _FLOAT), Number(1.0, _FLOAT)),
        ]
    return found


def _from_the_end(term: Product) -> list[Product]:
    """Return ``slope (key - last)`` for slopes that grow, ``slope key`` for those that fall."""
    array = _array(term.left)
    step = (linear(term.right) or {}).get(KEY, 0.0)
    last = apply("Cast", (Last(KEY),), _FLOAT)
    backwards = apply("Sub", (_position(KEY), last), _FLOAT)
    if array is None or (array * step <= 0).all():
        return [Product(_slope(term, term.left), _position(KEY))]
    if (array * step >= 0).all():
        return [Product(_slope(term, term.left), backwards)]
    growing = np.where(array * step > 0, array, 0.0)
    parts = (_replaced(term.left, growing), _replaced(term.left, array - growing))
    places = (backwards, _position(KEY))
    return [Product(_slope(term, s), place) for s, place in zip(parts, places, strict=True)]


def _array(slope: Expression) -> NDArray[np.float64] | None:
    """Return the values of a slope that is a constant: a number, an initializer, or a multiple of one."""
    match slope:
        case Number(value):
            return np.asarray(value, np.float64)
        case Leaf(tensor):
            array = constant(tensor)
            return None if array is None else array.astype(np.float64)
        case Apply("Mul", (Number(value), other)) | Apply("Mul", (other, Number(value))):
            array = _array(other)
            return None if array is None else array * value
        case Apply("Neg" | "Cast", (other,)):
            array = _array(other)
            return None if array is None else array * (-1 if slope.op == "Neg" else 1)
        case _:
            return None


def _exact_parts(slope: Expression) -> list[Expression]:
    """Split a constant slope into a part of few bits and the rest, unless it has few."""
    array = _array(slope)
    if array is None:
        return [slope]
    mantissa, exponent = np.frexp(array)
    steps = 2.0**_EXACT_BITS
    high = np.ldexp(np.round(mantissa * steps) / steps, exponent)
    if np.array_equal(high, array):
        return [slope]
    return [_replaced(slope, high), _replaced(slope, array - high)]


def _replaced(slope: Expression, array: NDArray[np.float64]) -> Expression:
    """Return the slope with other values."""
    leaf = next((part for part in walk(slope) if isinstance(part, Leaf)), None)
    if leaf is None:
        return Number(float(array), _FLOAT)
    value = onnx_ir.Value(
        name=f"{leaf.tensor.name}.part",
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(_FLOAT),
        const_value=onnx_ir.tensor(array.astype(np.float32)),
    )
    return Leaf(value, leaf.at, _FLOAT)


def _merged(terms: Sequence[Product]) -> tuple[Product, ...]:
    """Add up columns that have the same function of the query, then those with the same function of the key."""
    kept: list[Product] = [t for t in terms if t.axis is not None]
    by_left: dict[Expression, Expression] = {}
    for term in terms:
        if term.axis is None:
            by_left[term.left] = _plus(by_left.get(term.left), term.right)
    by_right: dict[Expression, Expression] = {}
    for left, right in by_left.items():
        by_right[right] = _plus(by_right.get(right), left)
    return (*(Product(left, right) for right, left in by_right.items()), *kept)


def _plus(one: Expression | None, other: Expression) -> Expression:
    return other if one is None else apply("Add", (one, other), other.dtype)
