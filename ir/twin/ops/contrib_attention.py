"""ONNX Runtime's own attention operators, in their plain forms."""

import math

import torch
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.ops.attention import merge_heads, split_heads, weights_of
from whet.ir.twin.registry import op


def _key_mask(mask: Tensor, q: Tensor, keys: int, filter_value: float) -> Tensor:
    """Turn lengths or a 0/1 mask over keys into a bias over (batch, 1, 1 or queries, keys)."""
    if mask.ndim > 3 or mask.shape[0] != q.shape[0]:
        raise UnsupportedModel(f"an attention mask of shape {tuple(mask.shape)} has no twin")
    if mask.ndim == 1:
        mask = torch.arange(keys).unsqueeze(0) < mask.unsqueeze(1)
    shape = (mask.shape[0], 1, 1, keys) if mask.ndim == 2 else (mask.shape[0], 1, -1, keys)
    return (1 - mask.reshape(shape).to(q.dtype)) * filter_value


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, biases: list[Tensor]
) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(q, k.transpose(-1, -2)) * (scale or 1 / math.sqrt(q.shape[-1]))
    for bias in biases:
        scores = scores + bias
    return merge_heads(torch.matmul(torch.softmax(scores, dim=-1), v)), scores


def _causal(queries: int, keys: int, filter_value: float, dtype: torch.dtype) -> Tensor:
    later = torch.arange(keys).unsqueeze(0) > torch.arange(queries).unsqueeze(1) + keys - queries
    return later.to(dtype) * filter_value


@op("MultiHeadAttention", domain="com.microsoft", returns_tuple=True)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attend with separate query, key and value; a projection bias may be added to all three."""
    if key is None or value is None:
        raise UnsupportedModel("MultiHeadAttention with packed query, key and value has no twin")
    if bias is not None:
        sizes = [query.shape[-1], key.shape[-1], value.shape[-1]]
        query, key, value = (
            x + part for x, part in zip((query, key, value), torch.split(bias, sizes), strict=True)
        )
    q = split_heads(query, num_heads)
    k, v = (x if x.ndim == 4 else split_heads(x, num_heads) for x in (key, value))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
    keys = k.shape[2]
    biases = [] if attention_bias is None else [attention_bias]
    if key_padding_mask is not None:
        biases.append(_key_mask(key_padding_mask, q, keys, mask_filter_value))
    if unidirectional:
        biases.append(_causal(q.shape[2], keys, mask_filter_value, q.dtype))
    y, scores = _attend(q, k, v, scale, biases)
    return y, k, v, scores


@op("GroupQueryAttention", domain="com.microsoft", returns_tuple=True)
def group_query_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    seqlens_k: Tensor | None = None,
    total_sequence_length: Tensor | None = None,
    cos_cache: Tensor | None = None,
    sin_cache: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_sink: Tensor | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: int = 0,
    local_window_size: int = -1,
    scale: float | None = None,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend causally with heads that share keys, every sample at its full length."""
    if key is None or value is None:
        raise UnsupportedModel("GroupQueryAttention with packed query, key and value has no twin")
    if do_rotary or smooth_softmax or local_window_size > 0 or head_sink is not None:
        raise UnsupportedModel(
            "GroupQueryAttention with rotation, a window or a sink of its own has no twin"
        )
    q = split_heads(query, num_heads)
    k, v = (split_heads(x, kv_num_heads) for x in (key, value))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
    groups = num_heads // kv_num_heads
    scores = torch.matmul(q, k.repeat_interleave(groups, 1).transpose(-1, -2))
    scores = scores * (scale or 1 / math.sqrt(q.shape[-1]))
    scores = softcap * torch.tanh(scores / softcap) if softcap > 0 else scores
    bias = _hidden_later(q, k, attention_bias)
    weights = weights_of(scores + bias, bias, q.dtype)
    return merge_heads(torch.matmul(weights, v.repeat_interleave(groups, 1))), k, v


def _hidden_later(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Return the bias with minus infinity where a key is later than the query, or as good as hidden."""
    queries, keys = q.shape[2], k.shape[2]
    position = torch.arange(queries).unsqueeze(1) + keys - queries
    hidden = torch.arange(keys).unsqueeze(0) > position
    zero = torch.zeros((), dtype=q.dtype)
    if bias is None:
        return torch.where(hidden, -torch.inf, zero)
    hidden = hidden | (bias <= torch.finfo(torch.float32).min)
    return torch.where(hidden, -torch.inf, bias)


@op("Attention", domain="com.microsoft", returns_tuple=True)
def packed_attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    qkv_hidden_sizes: list[int] | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Tensor, Tensor]:
    """Project to query, key and value with one matrix, then attend; the cache stacks both."""
    projected = torch.matmul(x, weights)
    projected = projected if bias is None else projected + bias
    sizes = qkv_hidden_sizes or [weights.shape[1] // 3] * 3
    q, k, v = (split_heads(part, num_heads) for part in torch.split(projected, sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    keys = k.shape[2]
    biases = [] if attention_bias is None else [attention_bias]
    if mask_index is not None:
        biases.append(_key_mask(mask_index, q, keys, mask_filter_value))
    if unidirectional:
        biases.append(_causal(q.shape[2], keys, mask_filter_value, q.dtype))
    y, _ = _attend(q, k, v, scale, biases)
    return y, torch.stack([k, v]) if k.shape == v.shape else k
