"""Attention operators of ONNX Runtime and rotary embeddings in double precision."""

import math
from collections.abc import Mapping

import numpy as np

from whet.ir.execute import CannotRun
from whet.ir.float64.kernel import (
    Attributes,
    Floats,
    Kernel,
    floats,
    integer,
    real,
    within_limit,
)
from whet.ir.float64.normalizations import normalize_rms
from whet.ir.values import Array

__all__ = ["ATTENTIONS", "attend", "rotate"]


def attend(
    q: Floats,
    k: Floats,
    v: Floats,
    *,
    scale: float,
    bias: Floats | None = None,
    softcap: float = 0.0,
    sink: Floats | None = None,
) -> Floats:
    """Return ``softmax(cap(scale q k') + bias) v`` for operands ``[batch, heads, length, size]``.

    ``sink`` has one number per head, which takes part in the softmax's denominator only. A query that sees no key
    gets zeros, as the standard operator defines it.
    """
    within_limit(q.size * k.shape[2] + math.prod(q.shape[:3]) * v.shape[2] * v.shape[3])
    scores = scale * np.matmul(q, k.swapaxes(-1, -2))
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    top = scores.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink.reshape(1, -1, 1, 1) - top)
    y: Floats = np.matmul(weights / np.where(total == 0, 1.0, total), v)
    return y


def rotate(x: Floats, cos: Floats, sin: Floats, *, interleaved: bool) -> Floats:
    """Rotate the first ``2 * cos.shape[-1]`` elements of ``[batch, heads, length, size]`` by ``[batch, length, n]``."""
    count = 2 * cos.shape[-1]
    turned, kept = x[..., :count], x[..., count:]
    if interleaved:
        left, right = turned[..., 0::2], turned[..., 1::2]
    else:
        left, right = np.split(turned, 2, axis=-1)
    c, s = cos[:, None], sin[:, None]
    parts = (c * left - s * right, s * left + c * right)
    if interleaved:
        done = np.stack(parts, axis=-1).reshape(turned.shape)
    else:
        done = np.concatenate(parts, axis=-1)
    return np.concatenate([done, kept], axis=-1)


def _split(x: Floats, heads: int) -> Floats:
    """Return ``[batch, length, heads * size]`` as ``[batch, heads, length, size]``."""
    if not heads or x.shape[-1] % heads:
        raise CannotRun(f"{x.shape[-1]} elements do not split into {heads} heads")
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _joined(x: Floats) -> Floats:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _causal(queries: int, keys: int, window: int = -1) -> Floats:
    """Return a mask for the last ``queries`` of ``keys`` positions."""
    behind = np.arange(keys - queries, keys)[:, None] - np.arange(keys)[None, :]
    hidden = behind < 0
    if window > 0:
        hidden |= behind >= window
    return np.where(hidden, -np.inf, 0.0)


def _plus(one: Floats | None, other: Floats) -> Floats:
    return other if one is None else one + other


def _factor(attributes: Attributes, size: int) -> float:
    return real(attributes, "scale", 0.0) or 1 / math.sqrt(size)


def _run_attention(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    """Compute the standard operator on operands of rank 4, or of rank 3 with heads beside each other."""
    given = [*inputs, *[None] * (7 - len(inputs))]
    if given[6] is not None or integer(attributes, "softmax_precision", 0):
        raise CannotRun("padded keys and a type for the softmax have no float64 kernel")
    q, k, v, past_key, past_value = floats([*given[:3], *given[4:6]], 5)
    if q is None or k is None or v is None:
        raise CannotRun("an operand is missing")
    split = q.ndim == 3
    if split:
        heads = integer(attributes, "q_num_heads", 0), integer(attributes, "kv_num_heads", 0)
        q, k, v = _split(q, heads[0]), _split(k, heads[1]), _split(v, heads[1])
    if past_key is not None and past_value is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    repeat = q.shape[1] // k.shape[1]
    y = attend(
        q,
        k.repeat(repeat, axis=1),
        v.repeat(repeat, axis=1),
        scale=real(attributes, "scale", 0.0) or 1 / math.sqrt(q.shape[-1]),
        bias=_added(attributes, given[3], q, k),
        softcap=real(attributes, "softcap", 0.0),
    )
    return (_joined(y) if split else y), k, v


def _added(attributes: Attributes, mask: Array | None, q: Floats, k: Floats) -> Floats | None:
    """Return what is added to the scores for the mask and the causal attribute."""
    bias: Floats | None = None
    if mask is not None:
        boolean = mask.dtype.kind == "b"
        bias = np.where(mask, 0.0, -np.inf) if boolean else mask.astype(np.float64)
        if bias.shape[-1] != k.shape[2]:
            raise CannotRun(f"a mask of {bias.shape[-1]} positions for {k.shape[2]} keys")
    if integer(attributes, "is_causal", 0):
        past = k.shape[2] - q.shape[2] if k.shape[2] != q.shape[2] else 0
        if past:
            raise CannotRun("a causal mask of other than as many keys has no float64 kernel")
        bias = _plus(bias, _causal(q.shape[2], k.shape[2]))
    return bias


def _run_multi_head(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    given = [*inputs, *[None] * (8 - len(inputs))]
    if any(extra is not None for extra in given[8:]):
        raise CannotRun("a shared buffer of past keys has no float64 kernel")
    q, k, v = _multi_head_operands(attributes, given)
    past_key, past_value = floats(given[6:8], 2)
    if past_key is not None and past_value is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    (bias,) = floats(given[5:6], 1)
    if given[4] is not None:
        bias = _plus(bias, _padding(attributes, given[4], k.shape[2]))
    if integer(attributes, "unidirectional", 0):
        bias = _plus(bias, _causal(q.shape[2], k.shape[2]))
    y = attend(q, k, v, scale=_factor(attributes, q.shape[-1]), bias=bias)
    return _joined(y), k, v


def _multi_head_operands(
    attributes: Attributes, inputs: list[Array | None]
) -> tuple[Floats, Floats, Floats]:
    """Return query, key and value as ``[batch, heads, length, size]``, biases added."""
    query, key, value, bias = floats(inputs[:4], 4)
    heads = integer(attributes, "num_heads", 0)
    if query is None or query.ndim != 3 or key is None or value is None:
        raise CannotRun("packed operands have no float64 kernel")
    if key.ndim == 4 and value.ndim == 4:
        if bias is not None:
            raise CannotRun("a bias of keys that are split into heads has no float64 kernel")
        return _split(query, heads), key, value
    if key.ndim != 3 or value.ndim != 3:
        raise CannotRun("packed operands have no float64 kernel")
    if bias is not None:
        sizes = np.cumsum([query.shape[-1], key.shape[-1]])
        for_q, for_k, for_v = np.split(bias, [int(n) for n in sizes])
        query, key, value = query + for_q, key + for_k, value + for_v
    return _split(query, heads), _split(key, heads), _split(value, heads)


def _padding(attributes: Attributes, mask: Array, keys: int) -> Floats:
    """Return what is added to the scores for a mask of zeros and ones, or of lengths."""
    low = real(attributes, "mask_filter_value", -10000.0)
    if mask.ndim == 1:
        shown = np.arange(keys)[None, :] < mask.astype(np.int64)[:, None]
    elif mask.ndim in (2, 3):
        shown = mask != 0
    else:
        raise CannotRun(f"a mask of rank {mask.ndim} has no float64 kernel")
    if shown.shape[-1] != keys:
        raise CannotRun(f"a mask of {shown.shape[-1]} positions for {keys} keys")
    added = np.where(shown, 0.0, low)
    return added[:, None, None, :] if added.ndim == 2 else added[:, None]


def _run_grouped(attributes: Attributes, *inputs: Array | None) -> tuple[Floats, ...]:
    given = [*inputs, *[None] * (16 - len(inputs))]
    if any(given[k] is not None for k in (12, 13)):
        raise CannotRun("quantized past keys have no float64 kernel")
    if integer(attributes, "sliding_window_cache", 0) or not integer(attributes, "causal", 1):
        raise CannotRun("a window of past keys, or no causal mask, has no float64 kernel")
    q, k, v = _grouped_operands(attributes, given)
    past_key, past_value = floats(given[3:5], 2)
    past = 0 if past_key is None else past_key.shape[2]
    _full_length(given[5], past + q.shape[2])
    q, k = _grouped_rotation(attributes, q, k, given, past)
    if past_key is not None and past_value is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    window = integer(attributes, "local_window_size", -1)
    bias, sink = _grouped_bias(attributes, given, q.shape[1])
    mask = _plus(bias, _causal(q.shape[2], k.shape[2], window))
    repeat = q.shape[1] // k.shape[1]
    y = attend(
        q,
        k.repeat(repeat, axis=1),
        v.repeat(repeat, axis=1),
        scale=_factor(attributes, q.shape[-1]),
        bias=mask,
        softcap=real(attributes, "softcap", 0.0),
        sink=sink,
    )
    return _joined(y), k, v


def _grouped_bias(
    attributes: Attributes, given: list[Array | None], heads: int
) -> tuple[Floats | None, Floats | None]:
    """Return what is added to the scores and what takes part in the denominator."""
    bias, sink = floats(given[10:12], 2)
    if sink is None and integer(attributes, "smooth_softmax", 0) == 1:
        sink = np.zeros(heads)
    return bias, sink


def _grouped_operands(
    attributes: Attributes, given: list[Array | None]
) -> tuple[Floats, Floats, Floats]:
    query, key, value = floats(given[:3], 3)
    heads, groups = integer(attributes, "num_heads", 0), integer(attributes, "kv_num_heads", 0)
    if query is None:
        raise CannotRun("the query is missing")
    if key is None or value is None:
        size = query.shape[-1] // (heads + 2 * groups)
        query, key, value = np.split(query, [heads * size, (heads + groups) * size], axis=-1)
    q, k, v = _split(query, heads), _split(key, groups), _split(value, groups)
    for_q, for_k = floats(given[14:16], 2)
    if for_q is not None and for_k is not None:
        epsilon = real(attributes, "qk_norm_epsilon", 1e-6)
        q, k = normalize_rms(q, for_q, epsilon)[0], normalize_rms(k, for_k, epsilon)[0]
    return q, k, v


def _full_length(lengths: Array | None, total: int) -> None:
    if lengths is None or np.any(lengths.astype(np.int64) + 1 != total):
        raise CannotRun("sequences of different lengths have no float64 kernel")


def _grouped_rotation(
    attributes: Attributes, q: Floats, k: Floats, given: list[Array | None], past: int
) -> tuple[Floats, Floats]:
    if not integer(attributes, "do_rotary", 0):
        return q, k
    cos, sin = floats(given[7:9], 2)
    if cos is None or sin is None or given[9] is not None:
        raise CannotRun("rotation needs a table, and positions of its own have no float64 kernel")
    place = slice(past, past + q.shape[2])
    interleaved = bool(integer(attributes, "rotary_interleaved", 0))
    rows = cos[None, place], sin[None, place]
    return rotate(q, *rows, interleaved=interleaved), rotate(k, *rows, interleaved=interleaved)


def _run_rotary(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    """Compute the standard RotaryEmbedding."""
    return _rotary(attributes, inputs[0], inputs[1], inputs[2], [*inputs, None][3])


def _run_own_rotary(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    """Compute com.microsoft's RotaryEmbedding: other order, positions may be one offset for all."""
    x, positions, cos, sin = inputs
    if integer(attributes, "is_packed_batching", 0) or real(attributes, "scale", 1.0) != 1.0:
        raise CannotRun("packed or scaled rotation has no float64 kernel")
    if x is None or positions is None:
        raise CannotRun("an operand is missing")
    if positions.size == 1 and positions.ndim == 1:
        batch, length = x.shape[0], x.shape[-2]
        positions = np.broadcast_to(int(positions[0]) + np.arange(length), (batch, length))
    return _rotary(attributes, x, cos, sin, positions)


def _rotary(
    attributes: Attributes,
    x: Array | None,
    cos: Array | None,
    sin: Array | None,
    positions: Array | None,
) -> tuple[Floats]:
    data, c, s = floats([x, cos, sin], 3)
    if data is None or c is None or s is None:
        raise CannotRun("an operand is missing")
    if positions is not None:
        rows = positions.astype(np.int64)
        c, s = c[rows], s[rows]
    count = integer(attributes, "rotary_embedding_dim", 0) // 2
    if count:
        c, s = c[..., :count], s[..., :count]
    interleaved = bool(integer(attributes, "interleaved", 0))
    if data.ndim == 4:
        return (rotate(data, c, s, interleaved=interleaved),)
    heads = integer(attributes, "num_heads", 0) or data.shape[-1] // (2 * c.shape[-1])
    return (_joined(rotate(_split(data, heads), c, s, interleaved=interleaved)),)


def _run_fused_product(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    """Compute com.microsoft's FusedMatMul, ``alpha A' B'``."""
    a, b = floats(inputs, 2)
    if a is None or b is None:
        raise CannotRun("an operand is missing")
    if integer(attributes, "transBatchA", 0) or integer(attributes, "transBatchB", 0):
        raise CannotRun("transposed batches have no float64 kernel")
    if integer(attributes, "transA", 0) and a.ndim > 1:
        a = a.swapaxes(-1, -2)
    if integer(attributes, "transB", 0) and b.ndim > 1:
        b = b.swapaxes(-1, -2)
    within_limit(a.size * b.shape[-1])
    return (np.asarray(real(attributes, "alpha", 1.0) * np.matmul(a, b)),)


ATTENTIONS: Mapping[tuple[str, str], Kernel] = {
    ("", "Attention"): _run_attention,
    ("", "RotaryEmbedding"): _run_rotary,
    ("com.microsoft", "RotaryEmbedding"): _run_own_rotary,
    ("com.microsoft", "MultiHeadAttention"): _run_multi_head,
    ("com.microsoft", "GroupQueryAttention"): _run_grouped,
    ("com.microsoft", "FusedMatMul"): _run_fused_product,
}
