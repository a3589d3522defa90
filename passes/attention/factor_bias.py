"""Replace an additive bias by factors appended to queries and keys, where its formula is in the graph."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.errors import Mismatch
from whet.ir.values import Array, constant, is_constant
from whet.passes.attention.break_even import check_pays
from whet.passes.attention.call import AttentionCall, AttentionSizes, read_attention
from whet.passes.attention.emission import Emitter
from whet.passes.attention.expression import (
    HEAD,
    KEY,
    QUERY,
    Expression,
    Index,
    Leaf,
    Number,
    apply,
    axes_of,
    linear,
    walk,
)
from whet.passes.attention.factors import append_factors
from whet.passes.attention.masks import ABSORBS, Mask, read_mask, write_mask
from whet.passes.attention.reading import Reader
from whet.passes.attention.separation import Term, rank_of, separate
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["FactorBias"]

_FLOAT = onnx_ir.DataType.FLOAT
_SMALL = 1e4
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

    when: Literal["measured", "always"] = "measured"
    """``always``: also where it was not measured to be faster."""
    most: int = 32
    """Biases of a higher rank are left alone."""
    padded_rows: Literal["keep", "any"] = "keep"
    """``any``: nobody reads the results of queries all of whose keys are hidden (left padding)."""

    def apply(self, work: Workbench) -> None:
        """Visit every Attention with a bias that the graph computes."""
        calls = [call for node in work.nodes("Attention") if (call := _with_bias(node)) is not None]
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
        if self.when == "measured":
            check_pays(
                work,
                call,
                sizes,
                rank,
                mask_kind=parts.kind,
                mask_shape=parts.shape(sizes),
                causal=parts.causal,
            )
        build = work.builder(call.node)
        emitter = Emitter(build, call, _FLOAT)
        left, right = emitter.factors(parts.terms)
        body = parts.mask()
        mask = None if body is None else emitter.bias(body)
        new = append_factors(build, call, left, right, mask=mask, causal=parts.causal)
        old = (call.node, *reversed(reader.nodes))
        work.propose(
            Proposal(
                old, ((call.node.outputs[0], new),), tuple(build.nodes), tuple(build.initializers)
            )
        )


def _with_bias(node: onnx_ir.Node) -> AttentionCall | None:
    try:
        call = read_attention(node)
    except Mismatch:
        return None
    return None if call.mask is None or is_constant(call.mask) else call


@dataclasses.dataclass
class _Parts:
    """A mask taken apart: factors, and what is left."""

    terms: tuple[Term, ...]
    causal: bool
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
    terms = [_hiding(condition) for condition in hidden]
    added: list[Expression] = []
    reasons: list[str] = []
    for part in mask.added:
        try:
            terms += separate(part, causal=causal)
        except Mismatch as reason:
            reasons.append(str(reason))
            added.append(part)
    found = _merged(_refined([term for term in terms if not _vanishes(term)]))
    if not found:
        raise Mismatch("; ".join(reasons) or _why_none(mask, causal))
    rest = [condition for condition in conditions if condition not in hidden]
    return _Parts(found, causal, rest, added, mask)


def _why_none(mask: Mask, causal: bool) -> str:
    if causal and mask.others:
        return (
            "keys are hidden by a causal and another mask: a query that sees none would change "
            "(padded_rows=any allows that)"
        )
    return "the mask only hides pairs of query and key, which is no low-rank bias"


def _hiding(condition: Expression) -> Term:
    zero, fill = Number(0.0, _FLOAT), Number(ABSORBS, _FLOAT)
    return Term(Number(1.0, _FLOAT), apply("Where", (condition, zero, fill), _FLOAT))


def _vanishes(term: Term) -> bool:
    """Tell whether a term is the same for all keys, and known to be small: then softmax does not see it."""
    if KEY in axes_of(term.right) or KEY in axes_of(term.left):
        return False
    for part in (*walk(term.left), *walk(term.right)):
        if isinstance(part, Number) and abs(part.value) > _SMALL:
            return False
        if isinstance(part, Leaf) and not is_constant(part.tensor):
            return False
    return True


def _refined(terms: Sequence[Term]) -> list[Term]:
    return [new for term in terms for new in _against_rounding(term)]


def _against_rounding(term: Term) -> list[Term]:
    """Keep large numbers out of the scores.

    A slope times the position of the key grows with the length and would take bits from the scores. Subtracting the
    same for the query changes nothing for softmax, and near the query, where the weight is, both cancel: exactly, if
    the slope times a position is exact; other slopes are split in two parts. What hides keys is kept finite.
    """
    if term.axis is not None:
        return [term]
    if linear(term.right) is not None and QUERY not in axes_of(term.left):
        return [new for slope in _exact_parts(term.left) for new in _centered(slope, term.right)]
    of_keys = QUERY not in axes_of(term.left) and any(isinstance(p, Leaf) for p in walk(term.right))
    if of_keys and term.left == Number(1.0, term.left.dtype):
        floor = Number(ABSORBS, term.right.dtype)
        return [
            dataclasses.replace(term, right=apply("Max", (term.right, floor), term.right.dtype))
        ]
    return [term]


def _centered(slope: Expression, right: Expression) -> list[Term]:
    factors = linear(right)
    assert factors is not None
    step = Number(factors.get(KEY, 0.0), _FLOAT)
    key, query = (apply("Cast", (Index(axis),), _FLOAT) for axis in (KEY, QUERY))
    minus = apply("Mul", (Number(-1.0, _FLOAT), query), _FLOAT)
    scaled = apply("Mul", (slope, step), _FLOAT)
    return [Term(scaled, key), Term(apply("Mul", (scaled, minus), _FLOAT), Number(1.0, _FLOAT))]


def _exact_parts(slope: Expression) -> list[Expression]:
    """Split a constant slope into two parts of few bits and many, unless it has few."""
    if not isinstance(slope, Number | Leaf):
        return [slope]
    array = np.asarray(slope.value) if isinstance(slope, Number) else constant(slope.tensor)
    if array is None:
        return [slope]
    high = _rounded(array)
    if np.array_equal(high, array):
        return [slope]
    low = np.subtract(array, high)
    return [_replaced(slope, high), _replaced(slope, low)]


def _rounded(array: Array) -> Array:
    mantissa, exponent = np.frexp(array.astype(np.float64))
    steps = 2.0**_EXACT_BITS
    return np.ldexp(np.round(mantissa * steps) / steps, exponent)


def _replaced(slope: Number | Leaf, array: Array) -> Expression:
    if isinstance(slope, Number):
        return Number(float(array), _FLOAT)
    value = onnx_ir.Value(
        name=f"{slope.tensor.name}.part",
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(_FLOAT),
        const_value=onnx_ir.tensor(array.astype(np.float32)),
    )
    return Leaf(value, slope.at, _FLOAT)


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Add up columns that have the same function of the query, then those with the same function of the key."""
    kept: list[Term] = [t for t in terms if t.axis is not None]
    by_left: dict[Expression, Expression] = {}
    for term in terms:
        if term.axis is None:
            by_left[term.left] = _plus(by_left.get(term.left), term.right)
    by_right: dict[Expression, Expression] = {}
    for left, right in by_left.items():
        by_right[right] = _plus(by_right.get(right), left)
    return (*(Term(left, right) for right, left in by_right.items()), *kept)


def _plus(one: Expression | None, other: Expression) -> Expression:
    return other if one is None else apply("Add", (one, other), other.dtype)
