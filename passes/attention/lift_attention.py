"""Recognize scaled dot-product attention by what it computes."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.sizes import KnownSizes, Sizes
from whet.errors import Mismatch
from whet.ir.values import attribute_int, rank
from whet.passes.attention.arrangement import Draft
from whet.passes.attention.mask_terms import element_type
from whet.passes.attention.probabilities import Weighted, read_weighted
from whet.passes.attention.replacement import replacement
from whet.passes.attention.scores import NoProduct, Scores, read_scores
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
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
    explains: ClassVar[bool] = True
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
    if size is None:
        raise NoProduct(f"the rank of '{value.name}' is not known")
    if axis % size != size - 1:
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
    zero = build.constant(np.zeros((), element_type(where)))
    filled = first if first.const_value is not None else second
    score = second if filled is first else first
    branches = (filled, zero) if filled is first else (zero, filled)
    masked = build.op("Add", score, build.op("Where", condition, *branches))
    pairs = ((where.outputs[0], masked),)
    work.coverage.matched += 1
    return work.propose(Proposal((where,), pairs, tuple(build.nodes), tuple(build.initializers)))


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
        replaced = replacement(scores, weighted, draft)
    except Mismatch as reason:
        work.decline(softmax, str(reason))
        Proposal((softmax,), (), tuple(build.nodes)).discard()
        return
    old = tuple(dict.fromkeys(draft.seen))
    work.propose(Proposal(old, (replaced,), tuple(build.nodes), tuple(build.initializers)))
