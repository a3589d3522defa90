"""Lift the concatenation of past and new keys into the attention."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, dimensions, is_op
from whet.passes.attention.call import AttentionCall, read_attention
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

_LENGTH = 2


@dataclasses.dataclass(frozen=True)
class LiftKeyValueCache(Pass):
    """Replace ``Attention(q, Concat(past_k, k), Concat(past_v, v))`` by an Attention with ``past_key`` and ``past_value``.

    The concatenations become the outputs ``present_key`` and ``present_value``. It is a cache if what is concatenated
    is an output of the model, or its past an input. Declines a causal Attention: without a past, query i sees the keys
    0 to i, with a past of length P the keys 0 to i + P.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Visit every Attention."""
        position = {node: k for k, node in enumerate(work.nodes())}
        for node in work.nodes("Attention"):
            try:
                call = read_attention(node)
            except Mismatch:
                continue
            joins = [_join_of(call.k), _join_of(call.v)]
            if not any(join is not None and join.is_cache for join in joins):
                continue
            work.coverage.matched += 1
            build = work.builder(node)
            try:
                proposal = _lifted(call, joins, position, build)
            except Mismatch as reason:
                work.decline(node, str(reason))
                continue
            work.propose(proposal)


@dataclasses.dataclass(frozen=True)
class _Join:
    """``Concat(past, new)`` along the positions."""

    node: onnx_ir.Node
    past: onnx_ir.Value
    new: onnx_ir.Value

    @property
    def present(self) -> onnx_ir.Value:
        return self.node.outputs[0]

    @property
    def is_cache(self) -> bool:
        return self.present.is_graph_output() or self.past.is_graph_input()


def _join_of(value: onnx_ir.Value) -> _Join | None:
    node = value.producer()
    rank = len(dimensions(value) or ())
    if node is None or not is_op(node, "Concat") or rank != 4 or len(node.inputs) != 2:
        return None
    past, new = node.inputs
    if past is None or new is None or attribute_int(node, "axis", 1) % rank != _LENGTH:
        return None
    return _Join(node, past, new)


def _lifted(
    call: AttentionCall,
    joins: list[_Join | None],
    position: dict[onnx_ir.Node, int],
    build: Builder,
) -> Proposal:
    keys, values = joins
    if keys is None or values is None:
        missing = "keys" if keys is None else "values"
        raise Mismatch(f"the {missing} are not a past and new ones")
    _check(call, keys, values, position)
    inputs = [call.q, keys.new, values.new, call.mask, keys.past, values.past]
    outputs = build.ops("Attention", inputs, 3, attributes=dict(call.node.attributes))
    old = (call.node.outputs[0], keys.present, values.present)
    pairs = tuple(zip(old, outputs, strict=True))
    return Proposal((call.node, keys.node, values.node), pairs, tuple(build.nodes))


def _check(
    call: AttentionCall, keys: _Join, values: _Join, position: dict[onnx_ir.Node, int]
) -> None:
    if call.past_key is not None or call.past_value is not None:
        raise Mismatch("the attention has a past already")
    if any(value.uses() or value.is_graph_output() for value in call.node.outputs[1:]):
        raise Mismatch("the attention gives its keys out already")
    if call.causal:
        raise Mismatch("causal without a past: query i would see the keys up to i, not to i + past")
    if keys.node is values.node:
        raise Mismatch("keys and values are one tensor")
    lengths = [(dimensions(join.past) or (None,) * 4)[_LENGTH] for join in (keys, values)]
    if lengths[0] != lengths[1] or lengths[0] is None:
        raise Mismatch(f"the past has {lengths[0]} keys and {lengths[1]} values")
    for join in (keys, values):
        for use in join.present.uses():
            if use.node is not call.node and _runs_before(use.node, call.node, position):
                raise Mismatch(
                    f"{use.node.op_type} '{use.node.name}' reads them before the attention"
                )


def _runs_before(
    reader: onnx_ir.Node, attention: onnx_ir.Node, position: dict[onnx_ir.Node, int]
) -> bool:
    """Tell whether a reader of the joined keys cannot be put behind the attention without moving it."""
    if reader.graph is not attention.graph:
        return True
    return position.get(reader, 0) < position.get(attention, 0)
