"""Operators that only move elements: they move integers of a grid as integers."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.backends.c.copying import Strided, copy, filled, row_major
from whet.backends.c.lowering import Lowering
from whet.backends.c.program import Grid, Tensor
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import literal
from whet.backends.layouts import LAST, PLAIN, Layout, to_last
from whet.ir.values import attribute_int, attribute_ints, attribute_string

__all__ = ["emit_concat", "emit_pad", "emit_reshape", "emit_slice", "emit_split", "emit_transpose"]


@emits("Identity", "Dropout", note="inference")
def emit_identity(low: Lowering, node: onnx_ir.Node) -> None:
    """Share the memory."""
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Decline("the mask of Dropout is not supported")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = low.required(node.inputs[2], "the training mode")
        if training.any():
            raise Decline("training is not supported")
    low.share(node.outputs[0], low.form(node.inputs[0]))


@emits("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def emit_reshape(low: Lowering, node: onnx_ir.Node) -> None:
    """Share the memory under another shape."""
    form = low.form(node.inputs[0])
    tensor = low.laid_out(form, PLAIN)
    low.define(node.outputs[0], tensor.reshaped(low.shape(node.outputs[0])), PLAIN, form.grid)


@emits("Transpose")
def emit_transpose(low: Lowering, node: onnx_ir.Node) -> None:
    """Put axes into another order; one that undoes channels last moves nothing."""
    form = low.form(node.inputs[0])
    axes = attribute_ints(node, "perm") or tuple(reversed(range(form.rank)))
    tensor = form.tensors.get(PLAIN)
    if tensor is None:
        tensor = form.tensors[LAST]
        axes = tuple(to_last(form.rank).index(a) for a in axes)
    low.define(node.outputs[0], low.transposed(tensor, axes), PLAIN, form.grid)


@emits("Concat", note="operands of one grid stay integers")
def emit_concat(low: Lowering, node: onnx_ir.Node) -> None:
    """Copy operands behind each other."""
    forms = [low.form(v) for v in node.inputs]
    grids = {form.grid for form in forms}
    rank = len(low.shape(node.outputs[0]))
    layout = low.layout(*node.inputs) if rank > 2 else PLAIN
    axis = _axis(attribute_int(node, "axis", 0), rank, layout)
    tensors = [low.laid_out(form, layout) for form in forms]
    grid = next(iter(grids)) if len(grids) == 1 else None
    if len(grids) > 1:
        tensors = [_real(low, t, f.grid) for t, f in zip(tensors, forms, strict=True)]
    result = low.make(_laid(low.shape(node.outputs[0]), layout), tensors[0].dtype)
    strides = row_major(result.shape)
    start, calls = 0, []
    for tensor in tensors:
        if tensor.size:
            to = Strided(result, strides, start)
            calls.append(copy(tensor.shape, Strided(tensor, row_major(tensor.shape)), to))
        start += tensor.shape[axis] * strides[axis]
    low.calls(calls)
    low.define(node.outputs[0], result, layout, grid)


def _real(low: Lowering, tensor: Tensor, grid: Grid | None) -> Tensor:
    from whet.backends.c.copying import real

    if grid is None:
        return tensor
    result = low.make(tensor.shape, np.dtype(np.float32), tensor.buffer.name)
    low.calls([real(tensor, grid, result)])
    return result


def _axis(axis: int, rank: int, layout: Layout) -> int:
    axis %= rank
    return to_last(rank).index(axis) if layout == LAST else axis


def _laid(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    return tuple(shape) if layout == PLAIN else (shape[0], *shape[2:], shape[1])


@emits("Slice", note="fixed starts, ends and steps")
def emit_slice(low: Lowering, node: onnx_ir.Node) -> None:
    """Copy every step-th element between two places of each axis."""
    form = low.form(node.inputs[0])
    if len(node.inputs) > 1:
        starts, ends = (_ints(low, node, k, what) for k, what in ((1, "starts"), (2, "ends")))
        axes = _ints(low, node, 3, "axes") or list(range(len(starts)))
        steps = _ints(low, node, 4, "steps") or [1] * len(starts)
    else:
        starts, ends = (list(attribute_ints(node, k) or ()) for k in ("starts", "ends"))
        axes, steps = list(attribute_ints(node, "axes") or range(len(starts))), [1] * len(starts)
    del ends
    layout = low.layout(node.inputs[0])
    tensor = low.laid_out(form, layout)
    strides = list(row_major(tensor.shape))
    first = 0
    for start, axis, step in zip(starts, axes, steps, strict=True):
        own = _axis(axis, form.rank, layout)
        size = tensor.shape[own]
        begin = start + size if start < 0 else start
        begin = min(max(begin, 0), size if step > 0 else size - 1)
        first += begin * strides[own]
        strides[own] *= step
    _copied(low, node, Strided(tensor, tuple(strides), first), layout, form.grid)


def _ints(low: Lowering, node: onnx_ir.Node, number: int, what: str) -> list[int]:
    if number >= len(node.inputs) or node.inputs[number] is None:
        return []
    return [int(i) for i in low.required(node.inputs[number], what).reshape(-1)]


def _copied(
    low: Lowering, node: onnx_ir.Node, source: Strided, layout: Layout, grid: Grid | None
) -> None:
    shape = _laid(low.shape(node.outputs[0]), layout)
    result = low.make(shape, source.tensor.dtype)
    low.calls([copy(shape, source, Strided(result, row_major(shape)))])
    low.define(node.outputs[0], result, layout, grid)


@emits("Split", note="fixed sizes")
def emit_split(low: Lowering, node: onnx_ir.Node) -> None:
    """Copy parts along an axis."""
    form = low.form(node.inputs[0])
    layout = low.layout(node.inputs[0])
    tensor = low.laid_out(form, layout)
    axis = _axis(attribute_int(node, "axis", 0), form.rank, layout)
    strides = row_major(tensor.shape)
    start = 0
    for value in node.outputs:
        shape = _laid(low.shape(value), layout)
        if value.uses() or value.is_graph_output():
            result = low.make(shape, tensor.dtype)
            source = Strided(tensor, strides, start * strides[axis])
            low.calls([copy(shape, source, Strided(result, row_major(shape)))])
            low.define(value, result, layout, form.grid)
        start += shape[axis]


@emits("Expand", "Tile", note="fixed sizes")
def emit_expand(low: Lowering, node: onnx_ir.Node) -> None:
    """Repeat elements."""
    form = low.form(node.inputs[0])
    tensor = low.laid_out(form, PLAIN)
    result = low.shape(node.outputs[0])
    own = (1,) * (len(result) - form.rank) + form.shape
    strides = row_major(own)
    if node.op_type == "Expand":
        steps = tuple(0 if n == 1 else s for n, s in zip(own, strides, strict=True))
        _copied(low, node, Strided(tensor, steps), PLAIN, form.grid)
        return
    sizes: list[int] = []
    steps_: list[int] = []
    for whole, size, stride in zip(result, own, strides, strict=True):
        sizes += [whole // max(size, 1), size]
        steps_ += [0, stride]
    target = low.make(result, tensor.dtype)
    low.calls([copy(sizes, Strided(tensor, tuple(steps_)), Strided(target, row_major(sizes)))])
    low.define(node.outputs[0], target, PLAIN, form.grid)


@emits("Pad", note="constant mode, fixed pads")
def emit_pad(low: Lowering, node: onnx_ir.Node) -> None:
    """Fill, then copy into the middle; negative pads cut off."""
    if attribute_string(node, "mode", "constant") != "constant":
        raise Decline("only the constant mode is supported")
    form = low.form(node.inputs[0])
    layout = low.layout(node.inputs[0])
    tensor = low.laid_out(form, layout)
    pads = list(attribute_ints(node, "pads") or ()) or _ints(low, node, 1, "pads")
    axes = _ints(low, node, 3, "axes") or list(range(form.rank))
    value = _pad_value(low, node, form.grid, tensor)
    grid = form.grid
    if value is None:
        tensor, grid = _real(low, tensor, grid), None
        value = _pad_value(low, node, None, tensor)
        assert value is not None
    shape = _laid(low.shape(node.outputs[0]), layout)
    result = low.make(shape, tensor.dtype)
    source, to = row_major(tensor.shape), row_major(shape)
    read = write = 0
    inner = list(tensor.shape)
    for k, axis in enumerate(axes):
        own = _axis(axis, form.rank, layout)
        before, behind = pads[k], pads[k + len(axes)]
        read += max(0, -before) * source[own]
        write += max(0, before) * to[own]
        inner[own] += min(0, before) + min(0, behind)
    moved = copy(inner, Strided(tensor, source, read), Strided(result, to, write))
    low.calls([filled(result, value), moved])
    low.define(node.outputs[0], result, layout, grid)


def _pad_value(low: Lowering, node: onnx_ir.Node, grid: Grid | None, tensor: Tensor) -> str | None:
    """Spell what is filled in; None if it is not on the grid."""
    number = node.attributes["value"].as_float() if "value" in node.attributes else 0.0
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        number = low.required(node.inputs[2], "the value of pads").reshape(-1)[0]
    if grid is None:
        return literal(np.asarray(number).astype(tensor.dtype)[()])
    return str(grid.zero) if number == 0 else None


@emits("DepthToSpace", "SpaceToDepth")
def emit_blocks(low: Lowering, node: onnx_ir.Node) -> None:
    """Move channels into space, or the other way."""
    form = low.form(node.inputs[0])
    tensor = low.laid_out(form, PLAIN)
    n, c, h, w = form.shape
    b = attribute_int(node, "blocksize", 1)
    if node.op_type == "SpaceToDepth":
        parts, axes = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    elif attribute_string(node, "mode", "DCR") == "DCR":
        parts, axes = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
    else:
        parts, axes = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
    moved = low.transposed(tensor.reshaped(parts), axes)
    low.define(node.outputs[0], moved.reshaped(low.shape(node.outputs[0])), PLAIN, form.grid)


@emits("Resize", "Upsample", note="nearest, by whole factors")
def emit_resize(low: Lowering, node: onnx_ir.Node) -> None:
    """Repeat every element along the axes in space."""
    form = low.form(node.inputs[0])
    result = low.shape(node.outputs[0])
    if attribute_string(node, "mode", "nearest") != "nearest":
        raise Decline("only the nearest mode is supported")
    if any(a % b for a, b in zip(result, form.shape, strict=True)):
        raise Decline(f"{form.shape} to {result} is not by whole factors")
    turned = attribute_string(node, "coordinate_transformation_mode", "half_pixel")
    rounding = attribute_string(node, "nearest_mode", "round_prefer_floor")
    if (turned, rounding) not in {("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")}:
        raise Decline(f"coordinates '{turned}' with '{rounding}' are not supported")
    if (turned, rounding) == ("half_pixel", "round_prefer_floor") and node.op_type == "Upsample":
        turned = "asymmetric"
    layout = low.layout(node.inputs[0])
    tensor = low.laid_out(form, layout)
    shape = _laid(result, layout)
    sizes: list[int] = []
    steps: list[int] = []
    for whole, size, stride in zip(shape, tensor.shape, row_major(tensor.shape), strict=True):
        sizes += [size, whole // size]
        steps += [stride, 0]
    target = low.make(shape, tensor.dtype)
    low.calls([copy(sizes, Strided(tensor, tuple(steps)), Strided(target, row_major(sizes)))])
    low.define(node.outputs[0], target, layout, form.grid)


@emits("Shape", "Size", "EyeLike", note="folded when the model is compiled")
def emit_folded(low: Lowering, node: onnx_ir.Node) -> None:
    """With all sizes fixed, what these return is constant."""
    array = low.facts.array(node.outputs[0])
    low.define(node.outputs[0], low.constant(array, node.outputs[0].name or ""), PLAIN)
