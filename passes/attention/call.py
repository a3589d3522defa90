"""An attention as passes see it: operands, attributes, sizes."""

import dataclasses
import math
from collections.abc import Mapping

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int, is_constant, is_op

__all__ = ["AttentionCall", "AttentionSizes", "read_attention", "read_masked"]


@dataclasses.dataclass(frozen=True)
class AttentionSizes:
    """The sizes of ``softmax(scale * q k' + mask) v``."""

    batch: int
    heads: int
    key_heads: int
    """Heads of keys and values; ``heads`` is a multiple of it."""
    queries: int
    keys: int
    """How many keys each query sees, past ones included."""
    head: int
    """Elements of a query or key in one head."""
    value_head: int
    mask: tuple[int, ...] | None = None
    """Shape of the mask, padded with ones to rank 4; None without one."""


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """An ``Attention`` node of opset 23 with operands of rank 4, the one form that lifting makes.

    ``y = softmax(softcap(scale * q k') + mask) v`` with q ``[batch, heads, queries, head]``, k
    ``[batch, key heads, keys, head]``, v ``[batch, key heads, keys, value head]`` and a mask that broadcasts to
    ``[batch, heads, queries, keys]``: added if it is of floats, and if it is of booleans false means minus infinity.
    """

    node: onnx_ir.Node
    q: onnx_ir.Value
    k: onnx_ir.Value
    v: onnx_ir.Value
    mask: onnx_ir.Value | None
    past_key: onnx_ir.Value | None
    past_value: onnx_ir.Value | None
    causal: bool
    """Query i sees keys 0 to i only (counted after the past)."""
    scale: float | None
    """None is the operator's default, one over the root of the head size."""
    softcap: float

    def factor(self, head: int) -> float:
        """Return the scale for a head size."""
        return 1 / math.sqrt(head) if self.scale is None else self.scale

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> AttentionSizes:
        """Return the sizes, given shapes by name (at one binding); raises Mismatch where one is not known."""
        q, k, v = (_shape(value, shapes) for value in (self.q, self.k, self.v))
        past = 0 if self.past_key is None else _shape(self.past_key, shapes)[2]
        mask = None
        if self.mask is not None:
            known = _shape(self.mask, shapes)
            mask = (1,) * (4 - len(known)) + known
        return AttentionSizes(
            batch=q[0],
            heads=q[1],
            key_heads=k[1],
            queries=q[2],
            keys=k[2] + past,
            head=q[3],
            value_head=v[3],
            mask=mask,
        )


def _shape(value: onnx_ir.Value, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    found = shapes.get(value.name or "")
    if found is None:
        raise Mismatch(f"the shape of '{value.name}' is not known")
    return found


def read_attention(node: onnx_ir.Node) -> AttentionCall:
    """Read an ``Attention`` node; raises Mismatch for what is not in the one form."""
    if not is_op(node, "Attention"):
        raise Mismatch(f"{node.op_type} is not an Attention")
    inputs = [*node.inputs, *[None] * (6 - len(node.inputs))]
    q, k, v, mask, past_key, past_value = inputs[:6]
    if q is None or k is None or v is None:
        raise Mismatch("an operand is missing")
    if "q_num_heads" in node.attributes:
        raise Mismatch("the operands are of rank 3")
    if len(inputs) > 6 and inputs[6] is not None:
        raise Mismatch("the keys are padded (nonpad_kv_seqlen)")
    scores = node.outputs[3] if len(node.outputs) > 3 else None
    if scores is not None and (scores.uses() or scores.is_graph_output()):
        raise Mismatch("the scores are an output")
    return AttentionCall(
        node=node,
        q=q,
        k=k,
        v=v,
        mask=mask,
        past_key=past_key,
        past_value=past_value,
        causal=bool(attribute_int(node, "is_causal", 0)),
        scale=attribute_float(node, "scale", 0.0) if "scale" in node.attributes else None,
        softcap=attribute_float(node, "softcap", 0.0),
    )


def read_masked(node: onnx_ir.Node) -> AttentionCall | None:
    """Read an ``Attention`` whose mask the graph computes; None for another, or one that is not in the one form."""
    try:
        call = read_attention(node)
    except Mismatch:
        return None
    return None if call.mask is None or is_constant(call.mask) else call
