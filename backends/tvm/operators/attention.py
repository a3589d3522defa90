"""Attention of opset 23 and RotaryEmbedding."""

import dataclasses
import math

import onnx_ir

from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.kernels.attention import Heads, Piece, Sizes, attention
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.operators.attention_pieces import columns, without_empty
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_attention"]


def _heads(shape: tuple[int, ...], count: int) -> tuple[Heads, tuple[int, int, int, int]]:
    """Return where rows are, and batch, heads, length and size."""
    if len(shape) == 4:
        batch, heads, length, size = shape
        strides = (heads * length * size, length * size, size)
        return Heads(shape, strides), (batch, heads, length, size)
    batch, length, width = shape
    if count == 0:
        raise Decline("q_num_heads and kv_num_heads are missing")
    size = width // count
    return Heads(shape, (length * width, size, width)), (batch, count, length, size)


@emits(
    "Attention",
    note="float32; masks of truth values or floats, causal, grouped heads, softcap; no past, no second output",
)
def emit_attention(low: Lowering, node: onnx_ir.Node) -> None:
    """Compute softmax(scale Q Kᵀ + mask) V."""
    inputs = [*node.inputs, *[None] * 7][:7]
    if any(v is not None for v in inputs[4:]):
        raise Decline(
            "past keys and values, or lengths of them, are not supported: export without a cache"
        )
    if any(v.name and (list(v.uses()) or v.is_graph_output()) for v in node.outputs[1:]):
        raise Decline("keys, values and scores are not handed out")
    if any(low.dtype(v) != "float32" for v in inputs[:3]):
        raise Decline(f"{low.dtype(inputs[0])} elements, only float32 is supported")
    q, (batch, heads, queries, size) = _heads(
        low.shape(inputs[0]), attribute_int(node, "q_num_heads", 0)
    )
    count = attribute_int(node, "kv_num_heads", 0)
    k, (_, theirs, keys, _) = _heads(low.shape(inputs[1]), count)
    v, (_, _, _, width) = _heads(low.shape(inputs[2]), count)
    y, _ = _heads(low.shape(node.outputs[0]), heads)
    mask = inputs[3]
    sizes = Sizes(
        batch,
        heads,
        heads // theirs,
        queries,
        keys,
        size,
        width,
        attribute_float(node, "scale", 0.0) or 1 / math.sqrt(size),
        causal=0 if attribute_int(node, "is_causal", 0) else None,
        softcap=attribute_float(node, "softcap", 0.0),
        mask=_mask_shape(low, mask, keys),
        truth=mask is not None and low.dtype(mask) == "bool",
    )
    pieces, tensors, sizes = _pieces(low, (inputs[0], inputs[1]), (q, k), sizes)
    tensors.append(low.tensor(inputs[2]))
    if mask is not None:
        tensors.append(low.reshaped(low.tensor(mask), sizes.mask))
    made = low.call(
        ("attention", sizes, *pieces, v, y),
        lambda: attention(sizes, *pieces, v, y, low.machine),
        tensors,
        low.shape(node.outputs[0]),
    )
    low.define(node.outputs[0], made)


def _pieces(
    low: Lowering,
    values: tuple[onnx_ir.Value | None, onnx_ir.Value | None],
    heads: tuple[Heads, Heads],
    sizes: Sizes,
) -> tuple[tuple[tuple[Piece, ...], tuple[Piece, ...]], list[Expr], Sizes]:
    """Return the pieces of queries and keys, their tensors, and the sizes without empty columns."""
    q, k = values
    assert q is not None
    assert k is not None
    if len(low.shape(q)) != 4:
        whole = (Piece(heads[0], sizes.size),), (Piece(heads[1], sizes.size),)
        return whole, [low.tensor(q), low.tensor(k)], sizes
    queries, keys = without_empty(low, columns(low, q), columns(low, k))
    pieces = tuple(c.piece(low) for c in queries), tuple(c.piece(low) for c in keys)
    size = sum(piece.width for piece in pieces[0])
    tensors = [low.tensor(c.value) for c in (*queries, *keys)]
    return pieces, tensors, dataclasses.replace(sizes, size=size)


def _mask_shape(low: Lowering, mask: onnx_ir.Value | None, keys: int) -> tuple[int, ...]:
    if mask is None:
        return ()
    if low.dtype(mask) not in ("bool", "float32"):
        raise Decline(f"a mask of {low.dtype(mask)} is not supported")
    shape = low.shape(mask)
    if shape[-1] not in (1, keys):
        raise Decline(f"the mask has {shape[-1]} keys, the attention {keys}")
    return (1,) * (4 - len(shape)) + shape


@emits("RotaryEmbedding")
def emit_rotary(low: Lowering, node: onnx_ir.Node) -> None:
    """Turn pairs of elements by angles of their position."""
    shape = low.shape(node.inputs[0])
    flat = len(shape) == 3
    count = attribute_int(node, "num_heads", 0)
    if flat and count == 0:
        raise Decline("num_heads is missing")
    size = shape[-1] // count if flat else shape[-1]
    turned = attribute_int(node, "rotary_embedding_dim", 0) or size
    half = turned // 2
    mixed = attribute_int(node, "interleaved", 0) != 0
    ids = node.inputs[3] if len(node.inputs) > 3 else None

    def rotated(x: Expr, cos: Expr, sin: Expr, *at: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            n, position = i[0], i[1] if flat else i[2]
            d = tirx.floormod(i[-1], size) if flat else i[-1]
            pair = tirx.floordiv(d, 2) if mixed else tirx.floormod(d, half)
            second = tirx.floormod(d, 2) == 1 if mixed else d >= half
            row = (at[0](n, position),) if at else (n, position)
            if len(cos.shape) == 2 and not at:
                row = (position,)
            pair = tirx.min(pair, half - 1)
            c, s = cos(*row, pair), sin(*row, pair)
            step = 1 if mixed else half
            other = tirx.if_then_else(second, i[-1] - step, i[-1] + step)
            partner = x(*i[:-1], tirx.min(other, shape[-1] - 1))
            found = x(*i) * c + tirx.Select(
                second, partner * s, tirx.const(0, str(s.ty)) - partner * s
            )
            return found if turned == size else tirx.if_then_else(d < turned, found, x(*i))

        return te.compute(shape, one, name="rotary")

    given = [low.tensor(v) for v in (*node.inputs[:3], ids) if v is not None]
    low.define(node.outputs[0], low.te(rotated, *given, name="rotary"))
