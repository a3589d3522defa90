"""Recognize scaled dot-product attention by what it computes."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.content_rules import Shape
from whet.analysis.shape_rules import broadcast
from whet.analysis.sizes import KnownSizes, Sizes
from whet.errors import Mismatch
from whet.ir.values import attribute_int, is_constant, is_op, rank
from whet.passes.attention.arrangement import Arrangement, Draft, Placed, choose, run_time_size
from whet.passes.attention.mask_terms import bounded, term_value
from whet.passes.attention.probabilities import Weighted, read_weighted
from whet.passes.attention.products import leading
from whet.passes.attention.scores import Factor, NoProduct, Scores, read_scores
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

_OPSET = 23


@dataclasses.dataclass(frozen=True)
class LiftAttention(Pass):
    """Replace ``softmax(cap(scale * q k') + mask) v`` by one ``Attention`` with operands of rank 4.

    The scale may be on the scores, on q, on k or on both, as Mul or Div; the mask any number of terms, added,
    subtracted, or filled in by Where; the products MatMul, FusedMatMul, Gemm or Einsum; batch and heads one axis or
    several. Masks become one sum. Where a mask hides a whole row, a finite fill still gives the mean of the values;
    with minus infinity the source gives NaN, or zeros behind a guard against NaN, and Attention zeros.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Sizes,)

    def apply(self, work: Workbench) -> None:
        """Visit every Softmax."""
        known = work.analyses.get(Sizes())
        for node in work.nodes("Softmax"):
            if node.domain not in ("", "ai.onnx"):
                continue
            try:
                weighted, scores = _read(node, work, known)
            except NoProduct as reason:
                work.near_miss(node, str(reason))
                continue
            except Mismatch as reason:
                work.coverage.matched += 1
                work.decline(node, str(reason))
                continue
            work.coverage.matched += 1
            _lift(node, scores, weighted, known, work)


def _read(softmax: onnx_ir.Node, work: Workbench, known: KnownSizes) -> tuple[Weighted, Scores]:
    """Read both sides of a softmax; raises NoProduct if it is not that of an attention."""
    value = softmax.inputs[0]
    assert value is not None
    size = rank(value)
    axis = attribute_int(softmax, "axis", -1 if work.opset >= 13 else 1)
    if size is None or axis % size != size - 1:
        raise NoProduct(f"the softmax is over axis {axis} of {size}, not the last")
    weighted = read_weighted(softmax, known)
    scores = read_scores(value, known)
    if work.opset < _OPSET:
        raise Mismatch(f"opset {work.opset} has no Attention")
    while scores.infinite is not None and _respelled(scores.infinite, work):
        value = softmax.inputs[0]
        assert value is not None
        scores = read_scores(value, known)
    return weighted, scores


def _respelled(where: onnx_ir.Node, work: Workbench) -> bool:
    """Turn ``Where(c, s, -inf)`` into ``s + Where(c, 0, -inf)``: a step of its own, as it keeps every row as it is."""
    build = work.builder(where)
    condition, first, second = where.inputs
    assert first is not None
    assert second is not None
    zero = build.constant(np.zeros((), _numpy(first)))
    filled = first if first.const_value is not None else second
    score = second if filled is first else first
    branches = (filled, zero) if filled is first else (zero, filled)
    masked = build.op("Add", score, build.op("Where", condition, *branches))
    pairs = ((where.outputs[0], masked),)
    work.coverage.matched += 1
    return work.propose(Proposal((where,), pairs, tuple(build.nodes), tuple(build.initializers)))


def _numpy(value: onnx_ir.Value) -> np.dtype[np.generic]:
    assert value.dtype is not None
    return np.dtype(value.dtype.numpy())


def _lift(
    softmax: onnx_ir.Node,
    scores: Scores,
    weighted: Weighted,
    known: KnownSizes,
    work: Workbench,
) -> None:
    build = work.builder(softmax)
    draft = Draft(known, build, [*weighted.nodes, *scores.nodes])
    try:
        replaced = _replacement(scores, weighted, draft)
    except Mismatch as reason:
        work.decline(softmax, str(reason))
        Proposal((softmax,), (), tuple(build.nodes)).discard()
        return
    old = tuple(dict.fromkeys(draft.seen))
    work.propose(Proposal(old, (replaced,), tuple(build.nodes), tuple(build.initializers)))


def _replacement(
    scores: Scores, weighted: Weighted, draft: Draft
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Return the value that is replaced, and by which."""
    known, build = draft.known, draft.build
    leads = [_lead(value, known) for value in (*scores.layouts, *weighted.layouts)]
    arranged = choose(leads, scores.query, known)
    at, behind = _lead(scores.layouts[-1], known), _lead(weighted.layouts[-1], known)
    q = arranged.operand(scores.query, at, draft)
    k = arranged.operand(scores.key, at, draft)
    v = arranged.operand(weighted.values, behind, draft)
    _check_heads(q, k, v)
    q, k, v = _same_batch((q, k, v), build)
    scale = scores.scale
    query = _multiplied(q.value, scores, arranged, draft)
    if not scale > 0:
        factor = build.constant(np.asarray(scale, _numpy(scores.product.node.outputs[0])))
        query, scale = build.op("Mul", query, factor), 1.0
    operands = [query, k.value, v.value]
    if scores.terms:
        operands.append(_mask(scores, arranged, q, k, draft))
    attributes: dict[str, Attribute] = {"scale": scale}
    if scores.softcap:
        attributes["softcap"] = scores.softcap
    y = build.op("Attention", *operands, attributes=attributes)
    shape = (*q.shape[:3], v.shape[3])
    later = _reshaped_later(weighted, shape, known)
    if later is not None:
        draft.seen.insert(0, later)
        return later.outputs[0], y
    result = arranged.back(Placed(y, shape), behind, draft)
    if weighted.order is not None:
        result = build.op("Transpose", result, attributes={"perm": weighted.order})
    return weighted.output, result


def _reshaped_later(weighted: Weighted, shape: Shape, known: KnownSizes) -> onnx_ir.Node | None:
    """Return the Reshape that brings the result to the shape that Attention gives."""
    value = weighted.output
    uses = list(value.uses())
    if weighted.order is not None or len(uses) != 1 or value.is_graph_output():
        return None
    reader = uses[0].node
    if None in shape or not is_op(reader, "Reshape") or known.shape(value) == shape:
        return None
    return reader if known.shape(reader.outputs[0]) == shape else None


def _lead(value: onnx_ir.Value, known: KnownSizes) -> Shape:
    shape = known.shape(value)
    if shape is None or len(shape) < 2:
        raise Mismatch(f"the rank of '{value.name}' is not known")
    return leading(shape)


def _check_heads(q: Placed, k: Placed, v: Placed) -> None:
    queries, keys, values = q.shape[1], k.shape[1], v.shape[1]
    if keys is None or keys != values:
        raise Mismatch(f"keys have {keys} heads, values {values}")
    if queries != keys and (keys != 1 or queries is None):
        raise Mismatch(f"queries have {queries} heads, keys {keys}")


def _same_batch(stacks: tuple[Placed, ...], build: Builder) -> tuple[Placed, ...]:
    """Expand stacks of batch 1 to the batch of the others: Attention does not broadcast."""
    sizes = [stack.shape[0] for stack in stacks]
    wide = [stack for stack in stacks if stack.shape[0] != 1]
    if not wide:
        return stacks
    if None in sizes or len({stack.shape[0] for stack in wide}) > 1:
        raise Mismatch(f"the batch sizes {', '.join(map(str, sizes))} are not known to be equal")
    if len(wide) == len(stacks):
        return stacks
    batch = run_time_size(wide[0].value, 0, build)
    target = build.op("Concat", batch, build.ints(1, 1, 1), attributes={"axis": 0})
    return tuple(
        stack
        if stack in wide
        else Placed(build.op("Expand", stack.value, target), (wide[0].shape[0], *stack.shape[1:]))
        for stack in stacks
    )


def _multiplied(
    query: onnx_ir.Value, scores: Scores, arranged: Arrangement, draft: Draft
) -> onnx_ir.Value:
    """Multiply the queries by what scales the scores of a head or of a query."""
    for factor in reversed(scores.factors):
        placed = _of_factor(factor, arranged, query, draft)
        query = draft.build.op(factor.op_type, query, placed)
    return query


def _of_factor(
    factor: Factor, arranged: Arrangement, query: onnx_ir.Value, draft: Draft
) -> onnx_ir.Value:
    shape = draft.known.shape(factor.value)
    assert shape is not None
    lead = _lead(factor.at, draft.known)
    return arranged.term(Placed(factor.value, shape), lead, query, draft).value


def _mask(
    scores: Scores, arranged: Arrangement, q: Placed, k: Placed, draft: Draft
) -> onnx_ir.Value:
    """Return the sum of all terms, at least of rank 2, with as many columns as there are keys."""
    known, build = draft.known, draft.build
    groups: dict[Shape, list[Placed]] = {}
    for term in sorted(reversed(scores.terms), key=lambda term: not is_constant(term.value)):
        shape = known.shape(term.value)
        if shape is None:
            raise Mismatch(f"the rank of '{term.value.name}' is not known")
        value = bounded(term_value(term, scores.product.node, build), build, draft.seen)
        groups.setdefault(_lead(term.at, known), []).append(Placed(value, shape))
    sums = [(lead, _sum(terms, build)) for lead, terms in groups.items()]
    total = _sum([arranged.term(term, lead, q.value, draft) for lead, term in sums], build)
    if len(total.shape) < 2 or total.shape[-1] != k.shape[2] or None in total.shape[-1:]:
        keys = run_time_size(k.value, 2, build)
        target = build.op("Concat", build.ints(1, 1, 1), keys, attributes={"axis": 0})
        return build.op("Expand", total.value, target)
    return total.value


def _sum(terms: Sequence[Placed], build: Builder) -> Placed:
    total = terms[0]
    for term in terms[1:]:
        value = build.op("Add", total.value, term.value)
        total = Placed(value, broadcast(total.shape, term.shape))
    return total
