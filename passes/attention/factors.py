"""Append the factors of an additive bias to queries and keys."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import dimensions
from whet.passes.attention.call import AttentionCall
from whet.passes.proposal import Attribute, Builder

__all__ = ["append_factors"]


def append_factors(
    build: Builder,
    call: AttentionCall,
    left: onnx_ir.Value | Sequence[onnx_ir.Value],
    right: onnx_ir.Value | Sequence[onnx_ir.Value],
    *,
    mask: onnx_ir.Value | None,
    causal: bool,
) -> onnx_ir.Value:
    """Return ``softmax([left, scale q] [right, k]' + mask) v``.

    That is ``softmax(scale q k' + left right' + mask) v``. ``left`` broadcasts to ``[batch, heads, queries, rank]``
    and ``right`` to ``[batch, key heads, keys, rank]``; either may come in several pieces of columns.

    The scale goes to the queries, where it rounds each product once as before, and the factors come first: products of
    positions that cancel do so before the scores are added.
    """
    if call.softcap:
        raise Mismatch("the scores are capped before the bias is added")
    if call.past_key is not None:
        raise Mismatch("keys are appended to a cache")
    head = (dimensions(call.q) or (None,))[-1]
    if not isinstance(head, int):
        raise Mismatch("the head size is not known")
    q = _times(build, call.q, call.factor(head))
    queries = build.op("Concat", *_like(build, left, call.q), q, attributes={"axis": -1})
    keys = build.op("Concat", *_like(build, right, call.k), call.k, attributes={"axis": -1})
    attributes: dict[str, Attribute] = {"scale": 1.0}
    if causal:
        attributes["is_causal"] = 1
    return build.op("Attention", queries, keys, call.v, mask, attributes=attributes)


def _times(build: Builder, q: onnx_ir.Value, scale: float) -> onnx_ir.Value:
    if scale == 1.0:
        return q
    if q.dtype is None:
        raise Mismatch(f"the type of '{q.name}' is not known")
    return build.op("Mul", q, build.constant(np.asarray(scale, q.dtype.numpy())))


def _like(
    build: Builder, pieces: onnx_ir.Value | Sequence[onnx_ir.Value], operand: onnx_ir.Value
) -> list[onnx_ir.Value]:
    """Broadcast columns over the batch, the heads and the positions of an operand."""
    columns = [pieces] if isinstance(pieces, onnx_ir.Value) else list(pieces)
    if all(_fits(column, operand) for column in columns):
        return columns
    outer = build.op("Shape", operand, attributes={"start": 0, "end": 3})
    shape = build.op("Concat", outer, build.ints(1), attributes={"axis": 0})
    return [c if _fits(c, operand) else build.op("Expand", c, shape) for c in columns]


def _fits(column: onnx_ir.Value, operand: onnx_ir.Value) -> bool:
    wanted, sizes = dimensions(operand), dimensions(column)
    if wanted is None or sizes is None or None in wanted[:3]:
        return False
    return sizes[:-1] == wanted[:3]
