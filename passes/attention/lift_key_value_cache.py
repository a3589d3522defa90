"""Lift the concatenation of past and new keys into the attention."""

import dataclasses
from typing import ClassVar

import numpy as np
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
    """Replace ``Attention(q, Concat(past_k, k), Concat(past_v, v))`` by one that takes the past and gives the present.

    The pasts become the inputs ``past_key`` and ``past_value``, the concatenations the outputs ``present_key`` and
    ``present_value``; who asks for the shape of a concatenation gets a sum. It is a cache if what is concatenated is
    an output of the model, or its past an input. Declines a causal Attention: without a past, query i sees the keys
    0 to i, with a past of length P the keys 0 to i + P.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Visit every Attention."""
        for node in work.nodes("Attention"):
            try:
                call = read_attention(node)
            except Mismatch:
                continue
            joins = [_join_of(call.k), _join_of(call.v)]
            if any(join is not None and join.is_cache for join in joins):
                work.coverage.matched += 1
                self._visit(call, joins, work)

    def _visit(self, call: AttentionCall, joins: "list[_Join | None]", work: Workbench) -> None:
        build = work.builder(call.node)
        try:
            keys, values = _checked(call, joins)
            for join in (keys, values):
                _replace_shapes(join, work)
            _check_order(call, (keys, values), work)
        except Mismatch as reason:
            work.decline(call.node, str(reason))
            return
        work.propose(_lifted(call, keys, values, build))


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


def _checked(call: AttentionCall, joins: list[_Join | None]) -> tuple[_Join, _Join]:
    keys, values = joins
    if keys is None or values is None:
        missing = "keys" if keys is None else "values"
        raise Mismatch(f"the {missing} are not a past and new ones")
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
    return keys, values


def _replace_shapes(join: _Join, work: Workbench) -> None:
    """Compute the shape of the concatenation from those of its operands."""
    for node in dict.fromkeys(use.node for use in join.present.uses()):
        if not is_op(node, "Shape") or node.graph is not join.node.graph:
            continue
        build = work.builder(node)
        taken = dict(node.attributes)
        added = np.eye(4, dtype=np.int64)[_LENGTH]
        start, end = attribute_int(node, "start", 0), attribute_int(node, "end", 4)
        more = build.op("Shape", join.new, attributes=taken)
        more = build.op("Mul", more, build.constant(added[start:end]))
        total = build.op("Add", build.op("Shape", join.past, attributes=taken), more)
        pairs = ((node.outputs[0], total),)
        new = tuple(build.nodes)
        work.propose(Proposal((node, join.node), pairs, new, tuple(build.initializers)))


def _check_order(call: AttentionCall, joins: tuple[_Join, _Join], work: Workbench) -> None:
    """Decline where something before the attention reads what it will give."""
    place = {node: k for k, node in enumerate(work.graph)}
    for join in joins:
        for use in join.present.uses():
            if use.node is not call.node and place.get(use.node, -1) < place[call.node]:
                who = f"{use.node.op_type} '{use.node.name}'"
                raise Mismatch(f"{who} reads the past with the new ones before the attention")


def _lifted(call: AttentionCall, keys: _Join, values: _Join, build: Builder) -> Proposal:
    inputs = [call.q, keys.new, values.new, call.mask, keys.past, values.past]
    outputs = build.ops("Attention", inputs, 3, attributes=dict(call.node.attributes))
    old = (call.node.outputs[0], keys.present, values.present)
    pairs = tuple(zip(old, outputs, strict=True))
    return Proposal((call.node, keys.node, values.node), pairs, tuple(build.nodes))
