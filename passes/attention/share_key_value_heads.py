"""Let groups of query heads share a key and value head."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.passes.attention.call import AttentionCall, read_attention
from whet.passes.attention.repeated_heads import Repeat, read_repeat
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

_HEADS = 1


@dataclasses.dataclass(frozen=True)
class ShareKeyValueHeads(Pass):
    """Replace ``Attention(q, repeat(k), repeat(v))`` by ``Attention(q, k, v)`` with fewer heads of k and v.

    The operator gives head h of q the head h // (H / KH) of k and v, so that each must be repeated H / KH times in a
    row: ``[a, a, b, b]``. Both have to be repeated as often. Ainslie et al., GQA, arXiv 2305.13245.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    def apply(self, work: Workbench) -> None:
        """Visit every Attention."""
        for node in work.nodes("Attention"):
            build = work.builder(node)
            try:
                call = read_attention(node)
                keys, values = read_repeat(call.k, _HEADS), read_repeat(call.v, _HEADS)
            except Mismatch as reason:
                work.near_miss(node, str(reason))
                continue
            if keys is None and values is None:
                continue
            work.coverage.matched += 1
            try:
                proposal = _shared(call, keys, values, build)
            except Mismatch as reason:
                work.decline(node, str(reason))
                continue
            work.propose(proposal)


def _shared(
    call: AttentionCall, keys: Repeat | None, values: Repeat | None, build: Builder
) -> Proposal:
    if keys is None or values is None or keys.times != values.times:
        counts = [1 if repeat is None else repeat.times for repeat in (keys, values)]
        raise Mismatch(f"keys are repeated {counts[0]} times, values {counts[1]} times")
    if call.past_key is not None or call.past_value is not None:
        raise Mismatch("the keys of the past are not repeated")
    if any(value.uses() or value.is_graph_output() for value in call.node.outputs[1:]):
        raise Mismatch("the repeated keys are an output of the attention")
    k = keys.once(build)
    v = values.once(build) if call.v is not call.k else k
    attributes = dict(call.node.attributes)
    y = build.op("Attention", call.q, k, v, *call.node.inputs[3:], attributes=attributes)
    old = tuple(dict.fromkeys((call.node, *keys.nodes, *values.nodes)))
    pairs: tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...] = ((call.node.outputs[0], y),)
    return Proposal(old, pairs, tuple(build.nodes), tuple(build.initializers))
