"""Attention and rotary positions."""

import math

import torch
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.element_types import torch_type
from whet.ir.twin.registry import op

_AFTER_SOFTCAP, _AFTER_BIAS, _AFTER_SOFTMAX = 1, 2, 3


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Lay (batch, time, heads x size) out as (batch, heads, time, size)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Lay (batch, heads, time, size) out as (batch, time, heads x size)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask into 0 where it is true and -inf elsewhere; cast another one."""
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    zero = torch.zeros((), dtype=dtype)
    return torch.where(mask, zero, torch.full_like(zero, -torch.inf))


def weights_of(scores: Tensor, bias: Tensor | None, precision: torch.dtype) -> Tensor:
    """Compute softmax over keys; a query whose bias is -inf everywhere attends nothing."""
    if bias is None:
        return torch.softmax(scores.to(precision), dim=-1)
    empty = torch.isneginf(bias).all(dim=-1, keepdim=True)
    safe = torch.where(empty, torch.zeros_like(scores), scores)
    return torch.where(empty, 0.0, torch.softmax(safe.to(precision), dim=-1))


def _window(queries: int, keys: int, offset: Tensor, causal: bool, left: int, right: int) -> Tensor:
    position = torch.arange(queries).unsqueeze(1) + offset.reshape(-1, 1, 1, 1)
    ahead = torch.arange(keys).unsqueeze(0) - position
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    if causal:
        allowed = allowed & (ahead <= 0)
    if left >= 0:
        allowed = allowed & (-ahead <= left)
    return allowed & (ahead <= right) if right >= 0 else allowed


def _padded(mask: Tensor, keys: int) -> Tensor:
    missing = keys - mask.shape[-1]
    if missing <= 0:
        return mask
    value = 0.0 if mask.dtype is torch.bool else -torch.inf
    return torch.nn.functional.pad(mask, [0, missing], value=value)


def _bias(dtype: torch.dtype, masks: list[Tensor]) -> Tensor | None:
    if not masks:
        return None
    first, *others = (additive(mask, dtype) for mask in masks)
    for other in others:
        first = first + other
    return first


@op("Attention", since=23)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``softmax(softcap(scale Q K^T) + bias) V`` with grouped heads and a cache."""
    packed = q.ndim == 3
    if packed:
        if q_num_heads is None or kv_num_heads is None:
            raise UnsupportedModel("Attention of rank 3 needs q_num_heads and kv_num_heads")
        q = split_heads(q, q_num_heads)
        k, v = split_heads(k, kv_num_heads), split_heads(v, kv_num_heads)
    past = torch.zeros([], dtype=torch.int64)
    if past_key is not None and past_value is not None:
        past = past + past_key.shape[2]
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
    elif nonpad_kv_seqlen is not None:
        past = nonpad_kv_seqlen - q.shape[2]
    masks = [] if attn_mask is None else [_padded(attn_mask, k.shape[2])]
    if is_causal or left_window_size >= 0 or right_window_size >= 0:
        sides = (left_window_size, right_window_size)
        masks.append(_window(q.shape[2], k.shape[2], past, bool(is_causal), *sides))
    if nonpad_kv_seqlen is not None:
        masks.append(torch.arange(k.shape[2]) < nonpad_kv_seqlen.reshape(-1, 1, 1, 1))
    bias = _bias(q.dtype, masks)
    raw, shared_v = _scores(q, k, v, scale)
    capped = softcap * torch.tanh(raw / softcap) if softcap > 0 else raw
    biased = capped if bias is None else capped + bias
    precision = torch_type(softmax_precision) if softmax_precision else q.dtype
    weights = weights_of(biased, bias, precision).to(q.dtype)
    shown = {_AFTER_SOFTCAP: capped, _AFTER_BIAS: biased, _AFTER_SOFTMAX: weights}
    y = torch.matmul(weights, shared_v)
    return merge_heads(y) if packed else y, k, v, shown.get(qk_matmul_output_mode, raw)


def _scores(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """Compute scaled scores, and the values shared among the heads of each group."""
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    root = torch.tensor(math.sqrt(factor), dtype=q.dtype)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.matmul(q * root, (k * root).transpose(-1, -2)), v


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of features by angles that depend on the position."""
    packed = x.ndim == 3
    heads = x.reshape(x.shape[0], x.shape[1], num_heads, -1) if packed else x.transpose(1, 2)
    size = rotary_embedding_dim or heads.shape[-1]
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    cos, sin = cos_cache.unsqueeze(2), sin_cache.unsqueeze(2)
    turning, rest = heads[..., :size], heads[..., size:]
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = turning.chunk(2, dim=-1)
    pair = (cos * first - sin * second, sin * first + cos * second)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], dim=-1)
    return y.reshape(x.shape) if packed else y.transpose(1, 2)


@op("LinearAttention", since=27)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float,
    update_rule: str,
) -> tuple[Tensor, Tensor]:
    """Run ``S = exp(g) S + k (beta (v - S^T k))^T`` (parts by rule) and read ``scale S^T q``."""
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (
        split_heads(x, heads).to(wide)
        for x, heads in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    state_type = query.dtype if past_state is None else past_state.dtype
    state = torch.zeros(q.shape[0], kv_num_heads, k.shape[-1], v.shape[-1], dtype=wide)
    state = state if past_state is None else past_state.to(wide)
    gate = None if decay is None else torch.exp(split_heads(decay.to(wide), kv_num_heads))
    rate = None if beta is None else beta.to(wide).transpose(1, 2).unsqueeze(-1)
    factor = scale or 1 / math.sqrt(q.shape[-1])
    steps: list[Tensor] = []
    for time in range(q.shape[2]):
        key_now, new = k[:, :, time], v[:, :, time]
        if gate is not None:
            state = state * gate[:, :, time].unsqueeze(-1)
        if rate is not None:
            new = rate[:, :, time] * (new - torch.einsum("bhdm,bhd->bhm", state, key_now))
        state = state + key_now.unsqueeze(-1) * new.unsqueeze(-2)
        shared = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        steps.append(factor * torch.einsum("bhdm,bhd->bhm", shared, q[:, :, time]))
    y = merge_heads(torch.stack(steps, dim=2))
    return y.to(query.dtype), state.to(state_type)
