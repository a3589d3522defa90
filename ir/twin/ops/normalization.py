"""Normalizations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.ir.twin.element_types import torch_type
from whet.ir.twin.registry import op


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _stashed(x: Tensor, stash_type: int | None) -> Tensor:
    wanted = torch_type(stash_type) if stash_type else x.dtype
    return x.to(torch.promote_types(x.dtype, wanted))


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    factor = torch.rsqrt(variance + epsilon)
    normal = (x - _per_channel(x, mean)) * _per_channel(x, factor)
    return (normal * _per_channel(x, scale) + _per_channel(x, bias)).to(x.dtype)


@op("BatchNormalization", since=7)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    outputs: int,
    epsilon: float,
    momentum: float,
    spatial: int = 1,
    training_mode: int = 0,
) -> tuple[Tensor, ...]:
    """Normalize channels by given statistics, or in training mode by the batch's."""
    if not spatial:
        factor = torch.rsqrt(variance + epsilon)
        return ((x - mean) * factor * scale + bias, *[mean, variance][: outputs - 1])
    if not training_mode:
        return (_batch_norm(x, scale, bias, mean, variance, epsilon), mean, variance)[:outputs]
    axes = [axis for axis in range(x.ndim) if axis != 1]
    batch_mean, batch_variance = x.mean(axes), x.var(axes, correction=0)
    new_mean = mean * momentum + batch_mean * (1 - momentum)
    new_variance = variance * momentum + batch_variance * (1 - momentum)
    y = _batch_norm(x, scale, bias, batch_mean, batch_variance, epsilon)
    return (y, new_mean.to(mean.dtype), new_variance.to(variance.dtype))[:outputs]


@op("InstanceNormalization", since=6)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    """Normalize each channel of each sample."""
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(x.var(axes, correction=0, keepdim=True) + epsilon)
    return normal * _per_channel(x, scale) + _per_channel(x, bias)


@op("LayerNormalization", since=1)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int | None = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize over the axes from ``axis`` on; also return the mean and 1 / standard deviation."""
    axes = list(range(axis % x.ndim, x.ndim))
    wide = _stashed(x, stash_type)
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt(wide.var(axes, correction=0, keepdim=True) + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


@op("RMSNormalization", since=23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int, epsilon: float, stash_type: int | None
) -> Tensor:
    """Divide by the root mean square over the axes from ``axis`` on."""
    axes = list(range(axis % x.ndim, x.ndim))
    wide = _stashed(x, stash_type)
    normal = wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + epsilon)
    return normal.to(x.dtype) * scale


def _grouped(x: Tensor, groups: int, epsilon: float, stash_type: int | None) -> Tensor:
    wide = _stashed(x, stash_type).reshape(x.shape[0], groups, -1)
    centred = wide - wide.mean(-1, keepdim=True)
    normal = centred * torch.rsqrt(wide.var(-1, correction=0, keepdim=True) + epsilon)
    return normal.reshape(x.shape).to(x.dtype)


@op("GroupNormalization", since=18)
def group_normalization_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float, num_groups: int
) -> Tensor:
    """Normalize groups of channels; scale and bias are per group."""
    normal = _grouped(x, num_groups, epsilon, None)
    each = x.shape[1] // num_groups
    scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return normal * _per_channel(x, scale) + _per_channel(x, bias)


@op("GroupNormalization", since=21)
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float,
    num_groups: int,
    stash_type: int | None,
) -> Tensor:
    """Normalize groups of channels; scale and bias are per channel."""
    normal = _grouped(x, num_groups, epsilon, stash_type)
    return normal * _per_channel(x, scale) + _per_channel(x, bias)


@op("LpNormalization", since=1)
def lp_normalization(x: Tensor, *, axis: int, p: int) -> Tensor:
    """Divide by the 1-norm or 2-norm along an axis; zero stays zero."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1, norm))


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Subtract the mean and divide by the standard deviation over axes."""
    chosen = list(axes)
    mean = x.mean(chosen, keepdim=True)
    variance = (x * x).mean(chosen, keepdim=True) - mean * mean
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


@op("LRN", since=1)
def lrn(x: Tensor, *, alpha: float, beta: float, bias: float, size: int) -> Tensor:
    """Divide by ``(bias + alpha / size * sum of squares of neighbour channels) ** beta``."""
    before = (size - 1) // 2
    square = F.pad(x * x, [0, 0] * (x.ndim - 2) + [before, size - 1 - before])
    total = square.unfold(1, size, 1).sum(dim=-1)
    return x / (bias + alpha / size * total) ** beta


@op("SimplifiedLayerNormalization", since=1, returns_tuple=True)
def simplified_layer_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int | None = 1
) -> tuple[Tensor, Tensor]:
    """Divide by the root mean square; also return its inverse."""
    axes = list(range(axis % x.ndim, x.ndim))
    wide = _stashed(x, stash_type)
    inverse = torch.rsqrt((wide * wide).mean(axes, keepdim=True) + epsilon)
    return (wide * inverse).to(x.dtype) * scale, inverse


@op("SimplifiedLayerNormalization", domain="com.microsoft", returns_tuple=True)
def simplified_layer_normalization_contrib(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int | None = 1
) -> tuple[Tensor, Tensor]:
    """Divide by the root mean square; also return its inverse."""
    return simplified_layer_normalization(
        x, scale, axis=axis, epsilon=epsilon, stash_type=stash_type
    )


@op("SkipLayerNormalization", domain="com.microsoft", returns_tuple=True)
def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize ``x + skip + bias`` over the last axis; the sum is the fourth output."""
    total = x + skip if bias is None else x + skip + bias
    y, mean, inverse = layer_normalization(total, gamma, beta, axis=-1, epsilon=epsilon)
    return y, mean, inverse, total


@op("SkipSimplifiedLayerNormalization", domain="com.microsoft", returns_tuple=True)
def skip_simplified_layer_normalization(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor, None, Tensor, Tensor]:
    """Divide ``x + skip + bias`` by its root mean square; the sum is the fourth output."""
    total = x + skip if bias is None else x + skip + bias
    y, inverse = simplified_layer_normalization(total, gamma, axis=-1, epsilon=epsilon)
    return y, None, inverse, total
