"""Shapes, layouts, and parts of tensors."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from whet.ir.twin.registry import op


@op("Identity", since=1, widen=False)
def identity(x: Tensor) -> Tensor:
    """Return the input."""
    return x


@op("Shape", since=1, widen=False)
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the sizes of the axes from ``start`` to before ``end``."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@op("Size", since=1, widen=False)
def size_of(x: Tensor) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@op("Reshape", since=5, widen=False)
def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """Lay the elements out in another shape; 0 keeps a size, -1 is inferred."""
    sizes: list[int] = shape.tolist()
    if not allowzero:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in sizes and x.numel() == 0:
        known = torch.Size(size for size in sizes if size != -1).numel()
        sizes = [(0 if known else 1) if size == -1 else size for size in sizes]
    return x.reshape(sizes)


@op("Flatten", since=1, widen=False)
def flatten(x: Tensor, *, axis: int) -> Tensor:
    """Make a matrix: the axes before ``axis`` by the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())


@op("Transpose", since=1, widen=False)
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Permute the axes; reverse them if no order is given."""
    return x.permute(list(perm) if perm is not None else list(range(x.ndim))[::-1])


def _squeeze(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    if axes is None:
        return x.squeeze()
    return x.squeeze([axis % x.ndim for axis in axes])


@op("Squeeze", since=1, widen=False)
def squeeze_1(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Remove axes of size 1."""
    return _squeeze(x, axes)


@op("Squeeze", since=13, widen=False)
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove axes of size 1."""
    return _squeeze(x, None if axes is None else axes.tolist())


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("Unsqueeze", since=1, widen=False)
def unsqueeze_1(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Insert axes of size 1."""
    return _unsqueeze(x, axes)


@op("Unsqueeze", since=13, widen=False)
def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """Insert axes of size 1."""
    return _unsqueeze(x, axes.reshape(-1).tolist())


@op("Concat", since=4)
def concat(*values: Tensor, axis: int) -> Tensor:
    """Join along an existing axis."""
    return torch.cat(values, dim=axis)


def _chunks(x: Tensor, sizes: Sequence[int] | None, axis: int, count: int) -> tuple[Tensor, ...]:
    if sizes is None:
        chunk = -(-x.shape[axis] // count)
        starts = [min(chunk * number, x.shape[axis]) for number in range(count + 1)]
        sizes = [end - start for start, end in itertools.pairwise(starts)]
    return torch.split(x, list(sizes), dim=axis)


@op("Split", since=2)
def split_2(
    x: Tensor, *, outputs: int, axis: int, split: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis."""
    return _chunks(x, split, axis, outputs)


@op("Split", since=13)
def split(
    x: Tensor,
    split: Tensor | None = None,
    *,
    outputs: int,
    axis: int,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """Cut along an axis into given sizes, or into equal parts (the last may be smaller)."""
    sizes = None if split is None else split.tolist()
    return _chunks(x, sizes, axis, num_outputs or outputs)


def _slice(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Tensor:
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        if stride == 1:
            x = x.narrow(axis, first, max(last - first, 0))
        else:
            places = torch.tensor(list(range(first, last, stride)), dtype=torch.int64)
            x = x.index_select(axis, places)
    return x


@op("Slice", since=1)
def slice_1(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    """Cut out a box."""
    return _slice(x, starts, ends, axes or range(len(starts)), [1] * len(starts))


@op("Slice", since=10)
def slice_10(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Cut out a box, with steps that may be negative."""
    begin: list[int] = starts.tolist()
    chosen = range(len(begin)) if axes is None else axes.tolist()
    stride = [1] * len(begin) if steps is None else steps.tolist()
    return _slice(x, begin, ends.tolist(), chosen, stride)


@op("Tile", since=6)
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat the whole tensor along each axis."""
    return x.repeat(repeats.tolist()) if x.ndim else x


@op("Expand", since=8, widen=False)
def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape; a 1 in the shape keeps the input's size."""
    sizes: list[int] = shape.tolist()
    sizes = [1] * (x.ndim - len(sizes)) + sizes
    offset = len(sizes) - x.ndim
    kept = [
        x.shape[axis - offset] if size == 1 and axis >= offset else size
        for axis, size in enumerate(sizes)
    ]
    return x.expand(kept)


@op("Trilu", since=14)
def trilu(x: Tensor, k: Tensor | None = None, *, upper: int) -> Tensor:
    """Keep the upper or lower triangle of the last two axes."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("DepthToSpace", since=1)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of channels into space."""
    batch, channels, height, width = x.shape
    rest = channels // blocksize**2
    if mode == "DCR":
        blocks = x.reshape(batch, blocksize, blocksize, rest, height, width)
        blocks = blocks.permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, rest, blocksize, blocksize, height, width)
        blocks = blocks.permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, rest, height * blocksize, width * blocksize)


@op("SpaceToDepth", since=1)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of space into channels."""
    batch, channels, height, width = x.shape
    rows, columns = height // blocksize, width // blocksize
    blocks = x.reshape(batch, channels, rows, blocksize, columns, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(batch, channels * blocksize**2, rows, columns)


@op("CenterCropPad", since=18)
def center_crop_pad(x: Tensor, shape: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Crop or pad with zeros around the centre."""
    wanted: list[int] = shape.tolist()
    for axis, size in zip(range(x.ndim) if axes is None else axes, wanted, strict=True):
        missing = size - x.shape[axis]
        before = missing // 2 if missing > 0 else -((-missing) // 2)
        x = pad_axis(x, axis, before, missing - before)
    return x


def pad_axis(x: Tensor, axis: int, before: int, after: int, value: float = 0) -> Tensor:
    """Add (or with negative counts remove) elements at both ends of an axis."""
    behind = x.ndim - 1 - axis % x.ndim
    return torch.nn.functional.pad(x, [0, 0] * behind + [before, after], value=value)


def _reflected(position: Tensor, size: int) -> Tensor:
    if size == 1:
        return torch.zeros_like(position)
    period = 2 * (size - 1)
    folded = torch.remainder(position, period)
    return torch.where(folded < size, folded, period - folded)


def _pad(x: Tensor, pads: Sequence[int], axes: Sequence[int], mode: str, value: float) -> Tensor:
    half = len(axes)
    for number, axis in enumerate(axes):
        before, after = pads[number], pads[half + number]
        if before == after == 0:
            continue
        if mode == "constant":
            x = pad_axis(x, axis, before, after, value)
            continue
        size = x.shape[axis]
        position = torch.arange(-before, size + after)
        if mode == "reflect":
            position = _reflected(position, size)
        elif mode == "edge":
            position = position.clamp(0, size - 1)
        else:
            position = torch.remainder(position, size)
        x = x.index_select(axis, position)
    return x


@op("Pad", since=2)
def pad_2(x: Tensor, *, pads: Sequence[int], mode: str, value: float) -> Tensor:
    """Pad every axis by counts given as attributes."""
    return _pad(x, pads, range(x.ndim), mode, value)


@op("Pad", since=11)
def pad(
    x: Tensor,
    pads: Tensor,
    constant_value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str,
) -> Tensor:
    """Pad by a constant, by reflection, by the edge or by wrapping; negative counts crop."""
    value = 0 if constant_value is None else constant_value.item()
    chosen = range(x.ndim) if axes is None else axes.tolist()
    return _pad(x, pads.tolist(), chosen, mode, value)


@op("ReverseSequence", since=10)
def reverse_sequence(
    x: Tensor, sequence_lens: Tensor, *, batch_axis: int, time_axis: int
) -> Tensor:
    """Reverse the first ``sequence_lens[i]`` steps of sample ``i``."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    step = torch.arange(moved.shape[1]).unsqueeze(0)
    length = sequence_lens.unsqueeze(1)
    source = torch.where(step < length, length - 1 - step, step)
    rows = torch.arange(moved.shape[0]).unsqueeze(1)
    return moved[rows, source].movedim((0, 1), (batch_axis, time_axis))
