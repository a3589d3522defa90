"""Make the Attention that takes the place of scores, softmax and weighted values."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.analysis.content_rules import Shape
from whet.analysis.shape_rules import broadcast
from whet.analysis.sizes import KnownSizes
from whet.errors import Mismatch
from whet.ir.values import is_constant, is_op
from whet.passes.attention.arrangement import Arrangement, Draft, Placed, choose, run_time_size
from whet.passes.attention.mask_terms import bounded, element_type, term_value
from whet.passes.attention.probabilities import Weighted
from whet.passes.attention.products import leading
from whet.passes.attention.scores import Scores
from whet.passes.proposal import Attribute, Builder

__all__ = ["replacement"]


def replacement(
    scores: Scores, weighted: Weighted, draft: Draft
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Return the value that is replaced, and by which."""
    known, build = draft.known, draft.build
    leads = [_lead(value, known) for value in scores.layouts]
    later = [_lead(value, known) for value in weighted.layouts]
    arranged = choose([*leads, *later], scores.query, known)
    at, behind = leads[-1], [leads[0], *later][-1]
    q = arranged.operand(scores.query, at, draft)
    k = arranged.operand(scores.key, at, draft)
    v = arranged.operand(weighted.values, behind, draft)
    _check_heads(q, k, v)
    q, k, v = _same_batch((q, k, v), build)
    scale = scores.scale
    query = _multiplied(q, scores, leads, arranged, draft)
    if not scale > 0:
        factor = build.constant(np.asarray(scale, element_type(scores.product.node)))
        query, scale = build.op("Mul", query, factor), 1.0
    operands = [query, k.value, v.value]
    if scores.terms:
        operands.append(_mask(scores, leads, arranged, (*q.shape[:3], k.shape[2]), (q, k), draft))
    attributes: dict[str, Attribute] = {"scale": scale}
    if scores.softcap:
        attributes["softcap"] = scores.softcap
    y = build.op("Attention", *operands, attributes=attributes)
    shape = (*q.shape[:3], v.shape[3])
    reshaped = _reshaped_later(weighted, shape, known)
    if reshaped is not None:
        draft.seen.insert(0, reshaped)
        return reshaped.outputs[0], y
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
    query: Placed, scores: Scores, leads: Sequence[Shape], arranged: Arrangement, draft: Draft
) -> onnx_ir.Value:
    """Multiply the queries by what scales the scores of a head or of a query."""
    value = query.value
    for factor in reversed(scores.factors):
        shape = draft.known.shape(factor.value)
        assert shape is not None
        term = Placed(factor.value, shape)
        placed = arranged.term(term, leads[factor.at], query.value, draft)
        _check_not_wider(placed, (*query.shape[:3], 1))
        value = draft.build.op(factor.op_type, value, placed.value)
    return value


def _check_not_wider(added: Placed, scores: Shape) -> None:
    """Decline what makes the scores larger by broadcasting them."""
    for size, own in zip(reversed(added.shape), reversed(scores), strict=False):
        if own == 1 and size not in (1, None):
            raise Mismatch(f"'{added.value.name}' makes an axis of the scores {size} instead of 1")


def _mask(
    scores: Scores,
    leads: Sequence[Shape],
    arranged: Arrangement,
    full: Shape,
    stacks: tuple[Placed, Placed],
    draft: Draft,
) -> onnx_ir.Value:
    """Return the sum of all terms, at least of rank 2, with as many columns as there are keys.

    ``full`` is the shape of the scores, ``stacks`` are queries and keys.
    """
    known, build = draft.known, draft.build
    q, k = stacks
    groups: dict[Shape, list[Placed]] = {}
    for term in sorted(reversed(scores.terms), key=lambda term: not is_constant(term.value)):
        shape = known.shape(term.value)
        if shape is None:
            raise Mismatch(f"the rank of '{term.value.name}' is not known")
        value = bounded(term_value(term, scores.product.node, build), build, draft.seen)
        groups.setdefault(leads[term.at], []).append(Placed(value, shape))
    sums = [(lead, _sum(terms, build)) for lead, terms in groups.items()]
    total = _sum([arranged.term(term, lead, q.value, draft) for lead, term in sums], build)
    _check_not_wider(total, full)
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
