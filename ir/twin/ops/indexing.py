"""Gathering, scattering and searching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from whet.ir.twin.registry import op

_SCATTER_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(indices: Tensor, size: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@op("Gather", since=1)
def gather(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    """Look up entries along an axis."""
    axis = axis % x.ndim
    flat = _wrapped(indices, x.shape[axis]).reshape(-1)
    found = x.index_select(axis, flat)
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@op("GatherElements", since=11)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    """Look up one entry along an axis for every index."""
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@op("GatherND", since=11)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Look up slices by index tuples in the last axis of ``indices``."""
    batch = x.shape[:batch_dims]
    depth = indices.shape[-1]
    flat = x.reshape([batch.numel(), *x.shape[batch_dims:]])
    tuples = indices.reshape(batch.numel(), -1, depth)
    rows = torch.arange(batch.numel()).unsqueeze(1)
    places = [_wrapped(tuples[..., axis], flat.shape[axis + 1]) for axis in range(depth)]
    return flat[(rows, *places)].reshape([*indices.shape[:-1], *x.shape[batch_dims + depth :]])


@op("Scatter", since=9)
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int) -> Tensor:
    """Write one entry along an axis for every index."""
    return scatter_elements(x, indices, updates, axis=axis)


@op("ScatterElements", since=11)
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, reduction: str = "none"
) -> Tensor:
    """Write or combine one entry along an axis for every index."""
    places = _wrapped(indices, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, _SCATTER_REDUCTIONS[reduction])


@op("ScatterND", since=11)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Write or combine slices at index tuples in the last axis of ``indices``."""
    depth = indices.shape[-1]
    places = [_wrapped(indices[..., axis], x.shape[axis]) for axis in range(depth)]
    if reduction == "none":
        return x.index_put(tuple(places), updates)
    row = torch.zeros_like(places[0])
    for axis, place in enumerate(places):
        row = row * x.shape[axis] + place
    matrix = x.reshape(x.shape[:depth].numel(), -1)
    source = updates.reshape(row.numel(), -1)
    index = row.reshape(-1, 1).expand_as(source)
    combined = matrix.scatter_reduce(0, index, source, _SCATTER_REDUCTIONS[reduction])
    return combined.reshape(x.shape)


@op("TensorScatter", since=24)
def tensor_scatter(
    cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Tensor:
    """Write each sample's update into its cache from its index on, wrapping if circular."""
    axis = axis % cache.ndim
    start = (
        torch.zeros(cache.shape[0], dtype=torch.int64) if write_indices is None else write_indices
    )
    place = start.unsqueeze(1) + torch.arange(update.shape[axis]).unsqueeze(0)
    if mode == "circular":
        place = torch.remainder(place, cache.shape[axis])
    shape = [1] * cache.ndim
    shape[0], shape[axis] = place.shape
    return torch.scatter(cache, axis, place.reshape(shape).expand_as(update), update)


@op("OneHot", since=9)
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int) -> Tensor:
    """Write the on-value at each index of a new axis; an index outside the depth marks nothing."""
    count = int(depth.reshape(()))
    axis = axis % (indices.ndim + 1)
    places = _wrapped(indices, count).unsqueeze(axis)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = count
    hit = places == torch.arange(count).reshape(shape)
    return torch.where(hit, values[1], values[0])


@op("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    """List the positions of nonzero elements, one per column."""
    return (
        torch.nonzero(x.reshape(1) if x.ndim == 0 else x).t()
        if x.ndim
        else (torch.zeros(0, int(bool(x)), dtype=torch.int64))
    )


@op("Compress", since=9)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Keep the entries along an axis (or of the flat tensor) where the condition holds."""
    places = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@op("Unique", since=11)
def unique(
    x: Tensor, *, sorted: int, axis: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find distinct entries, where each occurs first, which one each entry is, and their counts."""
    dim = 0 if axis is None else axis % x.ndim
    flat = x.reshape(-1) if axis is None else x
    values, inverse, counts = torch.unique(
        flat, sorted=True, return_inverse=True, return_counts=True, dim=dim
    )
    positions = torch.arange(inverse.numel())
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = torch.argsort(first)
        values, first, counts = values.index_select(dim, order), first[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    return values, first, inverse, counts


@op("NonMaxSuppression", since=10)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Tensor | None = None,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
    *,
    center_point_box: int,
) -> Tensor:
    """Keep, per class, the best boxes that overlap no better one by more than the threshold."""
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class)
    overlap = 0.0 if iou_threshold is None else float(iou_threshold)
    found: list[list[int]] = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], center_point_box)
        ious = _intersection_over_union(corners)
        for label in range(scores.shape[1]):
            score = scores[batch, label]
            keep = _kept(score, ious, limit, overlap, score_threshold)
            found += [[batch, label, box] for box in keep]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    if center_point_box:
        centre, half = boxes[:, [1, 0]], boxes[:, [3, 2]] / 2
        return torch.cat([centre - half, centre + half], dim=1)
    low = torch.minimum(boxes[:, :2], boxes[:, 2:])
    return torch.cat([low, torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)


def _intersection_over_union(corners: Tensor) -> Tensor:
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(dim=-1)
    either = area[:, None] + area[None, :] - both
    return torch.where(either > 0, both / either, torch.zeros_like(both))


def _kept(
    score: Tensor, ious: Tensor, limit: int, overlap: float, threshold: Tensor | None
) -> Sequence[int]:
    keep: list[int] = []
    for box in torch.argsort(score, descending=True, stable=True).tolist():
        if len(keep) == limit:
            break
        if threshold is not None and not bool(score[box] > threshold.reshape(())):
            break
        if all(float(ious[box, other]) <= overlap for other in keep):
            keep.append(box)
    return keep
