"""Resizing along axes and sampling at points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.registry import op


@dataclass(frozen=True, slots=True)
class _Mode:
    """How an axis is resized."""

    interpolation: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True, slots=True)
class _Target:
    """One axis: the wanted size, the scale, and the region of interest as fractions."""

    axis: int
    size: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _coordinates(target: _Target, size: int, mode: _Mode) -> Tensor:
    """Compute where in the input each output element lies."""
    place = torch.arange(target.size, dtype=torch.float64)
    length = target.scale * size
    match mode.coordinates:
        case "asymmetric":
            return place / target.scale
        case "align_corners":
            return place * ((size - 1) / (length - 1)) if length != 1 else place * 0
        case "tf_crop_and_resize":
            span = (target.end - target.start) * (size - 1)
            first = target.start * (size - 1)
            return first + (place * span / (length - 1) if length != 1 else place * 0 + span / 2)
        case "pytorch_half_pixel" if length == 1:
            return place * 0 - 0.5
        case "half_pixel_symmetric":
            offset = size / 2 * (1 - target.size / length)
            return offset + (place + 0.5) / target.scale - 0.5
        case "half_pixel" | "pytorch_half_pixel":
            return (place + 0.5) / target.scale - 0.5
        case other:
            raise UnsupportedModel(f"Resize has no coordinate_transformation_mode {other!r}")


def _nearest(place: Tensor, mode: str) -> Tensor:
    match mode:
        case "floor":
            return torch.floor(place)
        case "ceil":
            return torch.ceil(place)
        case "round_prefer_ceil":
            return torch.floor(place + 0.5)
        case _:
            return torch.ceil(place - 0.5)


def _cubic(distance: Tensor, a: float) -> Tensor:
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


def _taps(place: Tensor, scale: float, mode: _Mode) -> tuple[Tensor, Tensor]:
    """List for each output element the input elements around it and their weights."""
    if mode.interpolation == "nearest":
        return _nearest(place, mode.nearest).unsqueeze(1), torch.ones(len(place), 1).double()
    stretch = min(scale, 1.0) if mode.antialias else 1.0
    reach = 2 if mode.interpolation == "cubic" else 1
    first = math.floor(-reach / stretch) + 1
    offsets = torch.arange(first, 2 - first, dtype=torch.float64)
    index = torch.floor(place).unsqueeze(1) + offsets.unsqueeze(0)
    distance = (index - place.unsqueeze(1)) * stretch
    if mode.interpolation == "cubic":
        weight = _cubic(distance, mode.cubic_a)
    else:
        weight = (1 - distance.abs()).clamp(0, 1)
    return index, weight / weight.sum(1, keepdim=True) if mode.antialias else weight


def _resize_axis(x: Tensor, target: _Target, mode: _Mode) -> Tensor:
    size = x.shape[target.axis]
    place = _coordinates(target, size, mode)
    index, weight = _taps(place, target.scale, mode)
    if mode.exclude_outside:
        weight = torch.where((index >= 0) & (index < size), weight, 0.0)
        weight = weight / weight.sum(1, keepdim=True)
    index = index.clamp(0, size - 1).to(torch.int64)
    behind = [1] * (x.ndim - 1 - target.axis % x.ndim)
    y = sum(
        x.index_select(target.axis, index[:, tap]) * weight[:, tap].reshape(-1, *behind).to(x.dtype)
        for tap in range(index.shape[1])
    )
    assert isinstance(y, Tensor)  # there is at least one tap
    if mode.coordinates != "tf_crop_and_resize":
        return y
    outside = ((place < 0) | (place > size - 1)).reshape(-1, *behind)
    return torch.where(outside, torch.full_like(y, mode.extrapolation), y)


def _resize(x: Tensor, targets: Sequence[_Target], mode: _Mode) -> Tensor:
    wide = x if x.is_floating_point() else x.to(torch.float64)
    for target in targets:
        whole = (target.start, target.end) == (0.0, 1.0)
        if not (target.scale == 1.0 and target.size == x.shape[target.axis] and whole):
            wide = _resize_axis(wide, target, mode)
    if x.is_floating_point():
        return wide
    limits = torch.iinfo(x.dtype)
    return torch.round(wide).clamp(limits.min, limits.max).to(x.dtype)


def _targets(
    x: Tensor,
    axes: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    roi: Sequence[float] | None,
    policy: str,
) -> list[_Target]:
    lengths = [x.shape[axis] for axis in axes]
    if sizes is None:
        assert scales is not None
        sizes = [math.floor(scale * length) for scale, length in zip(scales, lengths, strict=True)]
    else:
        scales = [size / length for size, length in zip(sizes, lengths, strict=True)]
        if policy != "stretch":
            common = min(scales) if policy == "not_larger" else max(scales)
            scales = [common] * len(axes)
            sizes = [math.floor(common * length + 0.5) for length in lengths]
    region = list(roi) if roi else [0.0] * len(axes) + [1.0] * len(axes)
    return [
        _Target(axis, sizes[number], scales[number], region[number], region[len(axes) + number])
        for number, axis in enumerate(axes)
    ]


@op("Upsample", since=7)
def upsample_7(x: Tensor, *, mode: str, scales: Sequence[float]) -> Tensor:
    """Enlarge by factors given as an attribute."""
    how = _Mode(mode, coordinates="asymmetric", nearest="floor")
    return _resize(x, _targets(x, range(x.ndim), scales, None, None, "stretch"), how)


@op("Upsample", since=9)
def upsample(x: Tensor, scales: Tensor, *, mode: str) -> Tensor:
    """Enlarge by factors given as an input."""
    return upsample_7(x, mode=mode, scales=scales.tolist())


@op("Resize", since=10)
def resize_10(x: Tensor, scales: Tensor, *, mode: str) -> Tensor:
    """Resize by factors, with asymmetric coordinates."""
    return upsample_7(x, mode=mode, scales=scales.tolist())


@op("Resize", since=11)
def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str,
    cubic_coeff_a: float,
    exclude_outside: int,
    extrapolation_value: float,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str,
    nearest_mode: str,
) -> Tensor:
    """Resize by factors or to sizes, by nearest, linear or cubic interpolation, axis by axis."""
    how = _Mode(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
    )
    chosen = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    factors = scales.tolist() if scales is not None and scales.numel() else None
    wanted = sizes.tolist() if sizes is not None and sizes.numel() else None
    crop = coordinate_transformation_mode == "tf_crop_and_resize" and roi is not None
    region = roi.tolist() if crop and roi is not None else None
    targets = _targets(x, chosen, factors, wanted, region, keep_aspect_ratio_policy)
    return _resize(x, targets, how)


_GRID_MODES = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}


@op("GridSample", since=16)
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int, mode: str, padding_mode: str
) -> Tensor:
    """Sample at points whose coordinates run from -1 to 1."""
    return F.grid_sample(
        x,
        grid,
        mode=_GRID_MODES[mode],
        padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )


@op("AffineGrid", since=20)
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int) -> Tensor:
    """Compute the sampling grid of an affine map."""
    return F.affine_grid(theta, size.tolist(), align_corners=bool(align_corners))


@op("RoiAlign", since=10)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str,
    output_height: int,
    output_width: int,
    sampling_ratio: int,
    spatial_scale: float,
    coordinate_transformation_mode: str = "output_half_pixel",
) -> Tensor:
    """Pool bilinear samples of each region into a fixed grid, by average or maximum."""
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    pooled: list[Tensor] = []
    for roi, sample in zip(rois * spatial_scale - shift, batch_indices.tolist(), strict=True):
        left, top, right, bottom = roi.tolist()
        height, width = bottom - top, right - left
        if not shift:
            height, width = max(height, 1.0), max(width, 1.0)
        rows = _roi_points(top, height, output_height, sampling_ratio)
        columns = _roi_points(left, width, output_width, sampling_ratio)
        down = _roi_weights(rows, x.shape[2], x.dtype)
        across = _roi_weights(columns, x.shape[3], x.dtype)
        if mode == "avg":
            values = torch.einsum("chw,ph,qw->cpq", x[sample], down, across)
            bins = values.reshape(
                x.shape[1], output_height, -1, output_width, columns.shape[0] // output_width
            )
            pooled.append(bins.mean(dim=(2, 4)))
        else:
            pooled.append(_roi_maximum(x[sample], rows, columns, output_height, output_width))
    return (
        torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], output_height, output_width)
    )


def _roi_points(start: float, length: float, bins: int, ratio: int) -> Tensor:
    count = ratio if ratio > 0 else math.ceil(length / bins)
    step = torch.arange(bins * count, dtype=torch.float64)
    return start + (step + 0.5) * (length / bins / count)


def _roi_corner(points: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two neighbours of each point and the second's weight; NaN-free outside."""
    inside = points.clamp(0, size - 1)
    low = torch.floor(inside).clamp(max=max(size - 1, 0))
    high = (low + 1).clamp(max=size - 1)
    return low.to(torch.int64), high.to(torch.int64), inside - low


def _roi_weights(points: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    low, high, fraction = _roi_corner(points, size)
    matrix = torch.zeros(len(points), size, dtype=torch.float64)
    row = torch.arange(len(points))
    matrix.index_put_((row, low), 1 - fraction, accumulate=True)
    matrix.index_put_((row, high), fraction, accumulate=True)
    matrix[(points < -1) | (points > size)] = 0
    return matrix.to(dtype)


def _roi_maximum(x: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Take the largest of the four weighted neighbours of all samples, as ONNX defines it."""
    top, bottom, down = _roi_corner(rows, x.shape[1])
    left, right, across = _roi_corner(columns, x.shape[2])
    down, across = down.to(x.dtype).unsqueeze(1), across.to(x.dtype).unsqueeze(0)
    corners = [
        (1 - down) * (1 - across) * x[:, top][:, :, left],
        (1 - down) * across * x[:, top][:, :, right],
        down * (1 - across) * x[:, bottom][:, :, left],
        down * across * x[:, bottom][:, :, right],
    ]
    best = torch.stack(corners).amax(dim=0)
    return best.reshape(x.shape[0], height, len(rows) // height, width, -1).amax(dim=(2, 4))
