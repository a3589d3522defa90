"""Pooling."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.ops.convolution import flat_pads
from whet.ir.twin.registry import op
from whet.ir.twin.windows import Axis, axes_of

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _windows_summed(x: Tensor, axes: Sequence[Axis], counts: Sequence[int]) -> Tensor:
    """Add up every window of an already padded tensor, one axis after the other."""
    for number, (axis, count) in enumerate(zip(axes, counts, strict=True)):
        before = (slice(None),) * (x.ndim - len(axes) + number)
        reach = (count - 1) * axis.stride + 1
        starts = [step * axis.dilation for step in range(axis.kernel)]
        parts = [x[(*before, slice(start, start + reach, axis.stride))] for start in starts]
        x = torch.stack(parts).sum(dim=0)
    return x


def _counts(axes: Sequence[Axis], ceil_mode: int, auto_pad: str) -> list[int]:
    ceil = bool(ceil_mode) and auto_pad == "NOTSET"
    return [axis.count(ceil=ceil) for axis in axes]


def _fitted(x: Tensor, axes: Sequence[Axis], counts: Sequence[int], value: float) -> Tensor:
    ends = [axis.needed(count) for axis, count in zip(axes, counts, strict=True)]
    pads = flat_pads([(axis.before, end) for axis, end in zip(axes, ends, strict=True)])
    return F.pad(x, pads, value=value)


@op("AveragePool", since=7)
def average_pool(
    x: Tensor,
    *,
    auto_pad: str,
    kernel_shape: Sequence[int],
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Average windows; padding counts only if asked for, room made by ``ceil_mode`` never."""
    axes = axes_of(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    counts = _counts(axes, ceil_mode, auto_pad)
    total = _windows_summed(_fitted(x, axes, counts, 0.0), axes, counts)
    weight = torch.ones([], dtype=x.dtype)
    for axis, count in zip(axes, counts, strict=True):
        weight = weight.unsqueeze(-1) * _members(axis, count, count_include_pad).to(x.dtype)
    return total / weight


def _members(axis: Axis, count: int, include_pad: int) -> Tensor:
    start = torch.arange(count).unsqueeze(1) * axis.stride - axis.before
    place = start + torch.arange(axis.kernel).unsqueeze(0) * axis.dilation
    low, high = (-axis.before, axis.size + axis.after) if include_pad else (0, axis.size)
    return ((place >= low) & (place < high)).sum(dim=1)


@op("LpPool", since=2)
def lp_pool(
    x: Tensor,
    *,
    auto_pad: str,
    kernel_shape: Sequence[int],
    p: int,
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Compute the p-norm of every window."""
    axes = axes_of(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    counts = _counts(axes, ceil_mode, auto_pad)
    powers = _fitted(x.abs() ** p, axes, counts, 0.0)
    return _windows_summed(powers, axes, counts) ** (1.0 / p)


@op("MaxPool", since=1, returns_tuple=True)
def max_pool(
    x: Tensor,
    *,
    outputs: int,
    auto_pad: str,
    kernel_shape: Sequence[int],
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Take the maximum of every window, and its place in the whole flattened input."""
    rank = x.ndim - 2
    if rank not in _MAX_POOL:
        raise UnsupportedModel(f"the twin pools 1 to 3 spatial axes, not {rank}")
    axes = axes_of(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    counts = _counts(axes, ceil_mode, auto_pad)
    wide = x if x.is_floating_point() else x.to(torch.float32)
    fitted = _fitted(wide, axes, counts, float("-inf"))
    steps, spread = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    find = _MAX_POOL[rank]
    if outputs == 1:
        return (find(fitted, list(kernel_shape), steps, 0, spread).to(x.dtype),)
    values, places = find(fitted, list(kernel_shape), steps, 0, spread, return_indices=True)
    return values.to(x.dtype), _global_places(places, x, fitted, axes, storage_order)


def _global_places(
    places: Tensor, x: Tensor, fitted: Tensor, axes: Sequence[Axis], storage_order: int
) -> Tensor:
    coordinates: list[Tensor] = []
    for size, axis in zip(reversed(fitted.shape[2:]), reversed(axes), strict=True):
        coordinates.insert(0, places % size - axis.before)
        places = places // size
    order = range(len(axes))
    flat = torch.zeros_like(places)
    for number in reversed(order) if storage_order else order:
        flat = flat * x.shape[2 + number] + coordinates[number]
    plane = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * len(axes))
    return plane * x.shape[2:].numel() + flat


@op("MaxUnpool", since=9)
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Put values back to the places of their maxima, zeros elsewhere."""
    rank = len(kernel_shape)
    steps, around = strides or [1] * rank, pads or [0] * (2 * rank)
    spatial = [
        (size - 1) * steps[axis] + kernel_shape[axis] - around[axis] - around[rank + axis]
        for axis, size in enumerate(x.shape[2:])
    ]
    inner = torch.Size([*x.shape[:2], *spatial])
    sparse = torch.zeros(inner.numel(), dtype=x.dtype).scatter(0, indices.flatten(), x.flatten())
    y = sparse.reshape(inner)
    if output_shape is None:
        return y
    missing = [(0, size - have) for size, have in zip(output_shape.tolist(), inner, strict=True)]
    return F.pad(y, flat_pads(missing))


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


@op("GlobalAveragePool", since=1)
def global_average_pool(x: Tensor) -> Tensor:
    """Average over space."""
    return x.mean(_spatial(x), keepdim=True)


@op("GlobalMaxPool", since=1)
def global_max_pool(x: Tensor) -> Tensor:
    """Take the maximum over space."""
    return x.amax(_spatial(x), keepdim=True)


@op("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int) -> Tensor:
    """Compute the p-norm over space."""
    norm: Tensor = torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)
    return norm
