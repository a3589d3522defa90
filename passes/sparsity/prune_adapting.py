"""What operators need besides smaller weights when indices of their axes go: counts, sizes, places."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int, constant, constant_ints, dimensions

if TYPE_CHECKING:
    from whet.passes.sparsity.prune_copying import Shrinking

__all__ = ["ADAPTED", "Kept"]

Kept = NDArray[np.bool_]
Made = Sequence[onnx_ir.Value]
Adapt = Callable[["Shrinking", onnx_ir.Node], Made]


def _sized(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Write the new sizes into the shape that Reshape, Expand and Resize are given."""
    place = 3 if node.op_type == "Resize" else 1
    target = node.inputs[place] if place < len(node.inputs) else None
    sizes = {
        axis: int(kept.sum()) for axis, kept in enumerate(copy.outputs(node)[0]) if kept is not None
    }
    if target is None or not sizes:
        return copy.plain(node)
    return copy.plain(node, {place: _resized(copy, node, target, sizes)})


def _resized(
    copy: "Shrinking", node: onnx_ir.Node, target: onnx_ir.Value, sizes: Mapping[int, int]
) -> onnx_ir.Value:
    """Return a shape with some numbers replaced; what a reshape copies or infers stays."""
    known = constant(target)
    if known is not None:
        new = known.astype(np.int64)
        for axis, size in sizes.items():
            if new[axis] > (1 if node.op_type == "Expand" else 0):
                new[axis] = size
        return copy.build.constant(new)
    count = len(dimensions(node.outputs[0]) or ())
    keep, added = np.ones(count, np.int64), np.zeros(count, np.int64)
    for axis, size in sizes.items():
        keep[axis], added[axis] = 0, size
    computed = copy.build.op("Mul", copy.read(target), copy.build.constant(keep))
    return copy.build.op("Add", computed, copy.build.constant(added))


def _grouped(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Count the groups that are left of a convolution."""
    groups = attribute_int(node, "group", 1)
    kept = copy.inputs(node)[0][1]
    if groups == 1 or kept is None:
        return copy.plain(node)
    return copy.plain(node, attributes={"group": _count(kept, groups)})


def _count(kept: Kept, groups: int) -> int:
    """Return how many of equal groups of an axis have anything left."""
    return int(kept.reshape(groups, -1).any(1).sum())


def _group_norm(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    kept = copy.inputs(node)[0][1]
    if kept is None:
        return copy.plain(node)
    groups = attribute_int(node, "num_groups", 1)
    return copy.plain(node, attributes={"num_groups": _count(kept, groups)})


def _rms_norm(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Put the mean right: with n of N numbers left, ε becomes ε N / n, and the scale grows by the root of N / n."""
    kept = copy.inputs(node)[0][-1]
    scale = node.inputs[1]
    if kept is None:
        return copy.plain(node)
    old = constant(scale)
    if old is None:
        raise Mismatch(f"the scale of '{node.name}' is computed")
    share = kept.size / int(kept.sum())
    epsilon = attribute_float(node, "epsilon", 1e-5) * share
    array = (old.reshape(-1)[kept].astype(np.float64) * share**0.5).astype(old.dtype)
    made = copy.build.constant(array, scale.name or "" if scale is not None else "")
    return copy.plain(node, {1: made}, {"epsilon": epsilon})


def _slice(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Cut at the places where the same indices are now; where no step leads to them, take them one by one."""
    kept = copy.inputs(node)[0]
    given = [constant_ints(v) for v in node.inputs[1:]]
    starts, ends, axes, steps = (*given, *[None] * 4)[:4]
    axes = tuple(range(len(starts or ()))) if axes is None else axes
    changed = [k for k, axis in enumerate(axes) if kept[axis] is not None]
    if not changed:
        return copy.plain(node)
    assert starts is not None
    assert ends is not None
    steps = (1,) * len(starts) if steps is None else steps
    new = [list(starts), list(ends), list(axes), list(steps)]
    taken: list[tuple[int, NDArray[np.int64]]] = []
    for k in changed:
        places = _places(kept[axes[k]], slice(*_bounds(starts[k], ends[k], steps[k])))
        step = int(places[1] - places[0]) if places.size > 1 else 1
        if step > 0 and (np.diff(places) == step).all():
            new[0][k], new[1][k], new[3][k] = int(places[0]), int(places[-1]) + 1, step
        else:
            taken.append((axes[k], places))
            new[0][k], new[1][k], new[3][k] = 0, 2**31 - 1, 1
    operands = {k + 1: copy.build.ints(*numbers) for k, numbers in enumerate(new)}
    (made,) = copy.plain(node, operands)
    for axis, places in taken:
        index = copy.build.constant(places)
        made = copy.build.op("Gather", made, index, attributes={"axis": axis})
    return [made]


def _bounds(start: int, end: int, step: int) -> tuple[int, int | None, int]:
    return start, None if step < 0 and end < -(2**31) else end, step


def _places(kept: Kept | None, taken: slice) -> NDArray[np.int64]:
    """Return where the indices that are taken and stay are found afterwards."""
    assert kept is not None
    indices = np.arange(kept.size)[taken]
    return (np.cumsum(kept) - 1)[indices[kept[indices]]].astype(np.int64)


def _split(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    axis = attribute_int(node, "axis", 0)
    kept = copy.inputs(node)[0][axis]
    if kept is None:
        return copy.plain(node)
    sizes = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None:
        whole = -(-kept.size // len(node.outputs))
        sizes = (*[whole] * (len(node.outputs) - 1), kept.size - whole * (len(node.outputs) - 1))
    parts = np.split(kept, np.cumsum(sizes)[:-1])
    counts = copy.build.ints(*(int(part.sum()) for part in parts))
    return copy.plain(node, {1: counts}, {"num_outputs": None})


def _gather(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    axes = copy.inputs(node)[0]
    kept = axes[attribute_int(node, "axis", 0) % len(axes)]
    given = constant(node.inputs[1])
    if kept is None or given is None:
        return copy.plain(node)
    index = given.astype(np.int64)
    whole = np.where(index < 0, index + kept.size, index)
    if whole.ndim:
        whole = whole[kept[whole]]
    return copy.plain(node, {1: copy.build.constant((np.cumsum(kept) - 1)[whole])})


def _pad(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Count what is left of the room on both sides."""
    pads = constant_ints(node.inputs[1])
    rank = len(copy.outputs(node)[0])
    places = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None
    places = tuple(range(rank)) if places is None else places
    if pads is None:
        return copy.plain(node)
    new = list(pads)
    for k, place in enumerate(places):
        kept = copy.outputs(node)[0][place]
        if kept is not None:
            new[k] = int(kept[: pads[k]].sum())
            new[k + len(places)] = int(kept[kept.size - pads[k + len(places)] :].sum())
    return copy.plain(node, {1: copy.build.ints(*new)})


def _attention(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    """Count the heads that are left, and keep the scale that came from the full size of a head."""
    operands = copy.inputs(node)
    attributes: dict[str, int | float | None] = {}
    counts = [attribute_int(node, n, 0) for n in ("q_num_heads", "kv_num_heads")]
    width, size = operands[0][-1], dimensions(node.inputs[0])
    head = int(str(size[-1])) // max(counts[0], 1) if size is not None else 0
    if counts[0]:
        for name, kept, count in zip(
            ("q_num_heads", "kv_num_heads"),
            (width, operands[1][-1]),
            counts,
            strict=True,
        ):
            if kept is not None:
                attributes[name] = _count(kept, count)
    if width is not None and "scale" not in node.attributes:
        attributes["scale"] = head**-0.5
    return copy.plain(node, attributes=attributes)


def _rotary(copy: "Shrinking", node: onnx_ir.Node) -> Made:
    heads, kept = attribute_int(node, "num_heads", 0), copy.inputs(node)[0][-1]
    if not heads or kept is None:
        return copy.plain(node)
    return copy.plain(node, attributes={"num_heads": _count(kept, heads)})


ADAPTED: Mapping[str, Adapt] = {
    **dict.fromkeys(("Reshape", "Expand", "Resize"), _sized),
    **dict.fromkeys(("Conv", "ConvTranspose"), _grouped),
    "Attention": _attention,
    "Gather": _gather,
    "GroupNormalization": _group_norm,
    "Pad": _pad,
    "RMSNormalization": _rms_norm,
    "RotaryEmbedding": _rotary,
    "Slice": _slice,
    "Split": _split,
}
