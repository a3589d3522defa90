"""Convolutions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.registry import op
from whet.ir.twin.windows import Axis, axes_of

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def flat_pads(before_and_after: Sequence[tuple[int, int]]) -> list[int]:
    """Order pads as torch does: last axis first."""
    return [count for pair in reversed(before_and_after) for count in pair]


def _supported_rank(x: Tensor) -> int:
    rank = x.ndim - 2
    if rank not in _CONV:
        raise UnsupportedModel(f"the twin convolves 1 to 3 spatial axes, not {rank}")
    return rank


@op("Conv", since=1)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str,
    group: int,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Correlate (batch, channels, space...) with (out, channels / group, kernel...)."""
    rank = _supported_rank(x)
    axes = axes_of(
        x.shape[2:],
        weight.shape[2:],
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    padding = [axis.before for axis in axes]
    if any(axis.before != axis.after for axis in axes):
        x, padding = F.pad(x, flat_pads([(axis.before, axis.after) for axis in axes])), [0] * rank
    steps, spread = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    return _CONV[rank](x, weight, bias, steps, padding, spread, group)


@op("ConvTranspose", since=1)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str,
    group: int,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Compute the transposed correlation; pads crop, output padding adds at the end."""
    rank = _supported_rank(x)
    axes = axes_of(
        x.shape[2:],
        weight.shape[2:],
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad="NOTSET",
    )
    extra = output_padding or [0] * rank
    wanted = output_shape[-rank:] if output_shape else None
    if wanted is None and auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = [axis.size * axis.stride for axis in axes]
    crops = [(axis.before, axis.after) for axis in axes]
    if wanted is not None:
        totals = [
            _full(axis) + more - size for axis, more, size in zip(axes, extra, wanted, strict=True)
        ]
        crops = [_halves(total, upper=auto_pad == "SAME_UPPER") for total in totals]
    steps, spread = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    full = _CONV_TRANSPOSE[rank](x, weight, None, steps, 0, 0, group, spread)
    changes = [(-before, more - after) for (before, after), more in zip(crops, extra, strict=True)]
    y = F.pad(full, flat_pads(changes))
    return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)


def _full(axis: Axis) -> int:
    return axis.stride * (axis.size - 1) + axis.extent


def _halves(total: int, *, upper: bool) -> tuple[int, int]:
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


@op("DeformConv", since=19)
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    group: int,
    offset_group: int,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve at points that are moved by ``offset`` and scaled by ``mask`` (two spatial axes)."""
    if x.ndim != 4:
        raise UnsupportedModel(f"the twin's DeformConv has 2 spatial axes, not {x.ndim - 2}")
    rows, columns = axes_of(
        x.shape[2:],
        weight.shape[2:],
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad="NOTSET",
    )
    batch, space = x.shape[0], offset.shape[2:]
    points = rows.kernel * columns.kernel
    moved = offset.reshape(batch, offset_group, points, 2, *space)
    row = _grid(rows, space[0]).repeat_interleave(columns.kernel, 0).unsqueeze(-1)
    column = _grid(columns, space[1]).repeat(rows.kernel, 1).unsqueeze(-2)
    grouped = x.reshape(batch, offset_group, -1, *x.shape[2:])
    sampled = _bilinear(grouped, row + moved[:, :, :, 0], column + moved[:, :, :, 1])
    if mask is not None:
        sampled = sampled * mask.reshape(batch, offset_group, 1, points, *space)
    patches = sampled.reshape(batch, group, -1, space.numel())
    kernels = weight.reshape(group, weight.shape[0] // group, -1)
    y = torch.matmul(kernels, patches).reshape(batch, -1, *space)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _grid(axis: Axis, count: int) -> Tensor:
    kernel = torch.arange(axis.kernel).unsqueeze(1) * axis.dilation
    return torch.arange(count).unsqueeze(0) * axis.stride - axis.before + kernel


def _bilinear(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sample (batch, group, channel, height, width) at (batch, group, point...); zero outside."""
    top, left = torch.floor(row), torch.floor(column)
    total = torch.zeros(1, dtype=x.dtype)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - (row - top - down).abs()) * (1 - (column - left - right).abs())
            total = total + weight.unsqueeze(2) * _taken(x, top + down, left + right)
    return total


def _taken(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    flat = row.clamp(0, height - 1).to(torch.int64) * width
    flat = (flat + column.clamp(0, width - 1).to(torch.int64)).flatten(2).unsqueeze(2)
    values = x.flatten(3).gather(3, flat.expand(-1, -1, x.shape[2], -1))
    values = values.reshape([*x.shape[:3], *row.shape[2:]])
    return torch.where(inside.unsqueeze(2), values, torch.zeros_like(values))


@op("Col2Im", since=18)
def col2im(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Add up blocks (batch, channels x block, positions) where they overlap in the image."""
    image, block = image_shape.tolist(), block_shape.tolist()
    axes = axes_of(image, block, strides=strides, dilations=dilations, pads=pads, auto_pad="NOTSET")
    counts = [axis.count(ceil=False) for axis in axes]
    padded = [axis.size + axis.before + axis.after for axis in axes]
    place = torch.zeros(1, 1, dtype=torch.int64)
    for axis, count, size in zip(axes, counts, padded, strict=True):
        kernel = torch.arange(axis.kernel).unsqueeze(1) * axis.dilation
        along = kernel + torch.arange(count).unsqueeze(0) * axis.stride
        outer = place.unsqueeze(1).unsqueeze(3) * size + along.unsqueeze(0).unsqueeze(2)
        place = outer.reshape(place.shape[0] * axis.kernel, place.shape[1] * count)
    source = x.reshape(x.shape[0], -1, place.numel())
    canvas = torch.zeros(x.shape[0], source.shape[1], torch.Size(padded).numel(), dtype=x.dtype)
    index = place.reshape(1, 1, -1).expand_as(source)
    image_tensor = canvas.scatter_add(2, index, source).reshape([*canvas.shape[:2], *padded])
    return F.pad(image_tensor, flat_pads([(-axis.before, -axis.after) for axis in axes]))


@op("CausalConvWithState", since=27)
def causal_conv_with_state(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past_state: Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its past; the last inputs are the state for the next call."""
    past = weight.shape[-1] - 1
    if past_state is None:
        past_state = torch.zeros(*x.shape[:2], past, dtype=x.dtype)
    longer = torch.cat([past_state, x], dim=-1)
    y = F.conv1d(longer, weight, bias, groups=x.shape[1])
    y = F.silu(y) if activation in {"silu", "swish"} else y
    return y, longer[..., longer.shape[-1] - past :]
