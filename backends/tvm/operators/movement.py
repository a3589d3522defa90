"""Operators that move elements."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST, PLAIN, to_last, to_plain
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.lowering import Lowering, ints
from whet.backends.tvm.operators.arithmetic import broadcast
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_float, attribute_int, attribute_string

__all__ = ["transposed"]


def transposed(axes: Sequence[int]) -> Callable[[Expr], Expr]:
    """Return what puts the axes of a tensor into another order."""
    order = list(axes)

    def moved(x: Expr) -> Expr:
        shape = [x.shape[a] for a in order]
        return te.compute(
            shape, lambda *i: x(*(i[order.index(a)] for a in range(len(order)))), name="transpose"
        )

    return moved


@emits("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def emit_reshape(low: Lowering, node: onnx_ir.Node) -> None:
    """Read the same elements in another shape: costs nothing."""
    x = low.tensor(node.inputs[0])
    low.define(node.outputs[0], low.reshaped(x, low.shape(node.outputs[0])))


@emits("Identity", "Dropout", note="inference")
def emit_identity(low: Lowering, node: onnx_ir.Node) -> None:
    """Pass the value on."""
    if len(node.outputs) > 1 and node.outputs[1].name:
        raise Decline("a mask is for training")
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None and np.any(low.required(mode, "training_mode")):
        raise Decline("training_mode is true: export the model for inference")
    layout = low.layout(node.inputs[0])
    low.define(node.outputs[0], low.tensor(node.inputs[0], layout), layout)


@emits("Transpose")
def emit_transpose(low: Lowering, node: onnx_ir.Node) -> None:
    """Put axes into another order; where only axes of one element move, nothing is copied."""
    source = node.inputs[0]
    shape = low.shape(source)
    turned = tuple(reversed(range(len(shape))))
    axes = tuple(int(a) for a in ints(node, "perm", turned))
    assert source is not None
    if len(shape) > 2 and axes == to_last(len(shape)) and low.layout(source) == LAST:
        low.define(node.outputs[0], low.tensor(source, LAST))
        return
    x = low.tensor(source)
    if len(shape) == 4 and axes == to_plain(4):
        low.define(node.outputs[0], x, LAST)
        return
    moved = [a for a in axes if shape[a] > 1]
    if moved == sorted(moved):
        low.define(node.outputs[0], low.reshaped(x, low.shape(node.outputs[0])))
        return
    low.define(node.outputs[0], low.te(transposed(axes), x, name="transpose"))


@emits("Expand", "Tile")
def emit_repeat(low: Lowering, node: onnx_ir.Node) -> None:
    """Repeat along axes."""
    shape = low.shape(node.outputs[0])
    own = low.shape(node.inputs[0])

    def repeated(x: Expr) -> Expr:
        if node.op_type == "Expand":
            return te.compute(shape, lambda *i: broadcast(x, i), name="expand")
        at = [i for i in range(len(own))]
        return te.compute(
            shape, lambda *i: x(*(tirx.floormod(i[a], own[a]) for a in at)), name="tile"
        )

    low.define(node.outputs[0], low.te(repeated, low.tensor(node.inputs[0]), name="repeat"))


@emits("Concat")
def emit_concat(low: Lowering, node: onnx_ir.Node) -> None:
    """Put operands behind each other."""
    operands = [v for v in node.inputs if v is not None]
    shape = low.shape(node.outputs[0])
    axis = attribute_int(node, "axis", 0) % len(shape)
    layout = low.layout(*operands)
    if layout == LAST:
        axis = to_last(len(shape)).index(axis)
        shape = tuple(shape[a] for a in to_last(len(shape)))
    tensors = [low.tensor(v, layout) for v in operands]

    def joined(*xs: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            end = shape[axis]
            found: Expr = None
            for x in reversed(xs):
                start = end - int(x.shape[axis])
                value = x(*i[:axis], i[axis] - start, *i[axis + 1 :])
                found = value if found is None else tirx.if_then_else(i[axis] < end, value, found)
                end = start
            return found

        return te.compute(shape, one, name="concat")

    low.define(node.outputs[0], low.te(joined, *tensors, name="concat"), layout)


@emits("Slice", note="fixed starts and steps")
def emit_slice(low: Lowering, node: onnx_ir.Node) -> None:
    """Take every so many elements from a range of each axis."""
    shape = low.shape(node.inputs[0])
    given: list[list[int]] = []
    for place, name in enumerate(("starts", "ends", "axes", "steps")):
        value = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if value is not None:
            given.append([int(n) for n in low.required(value, name).reshape(-1)])
        else:
            given.append([int(n) for n in ints(node, name, ())])
    starts, ends, axes, steps = given
    axes = [a % len(shape) for a in (axes or range(len(starts)))]
    steps = steps or [1] * len(starts)
    at: dict[int, tuple[int, int]] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at[axis] = (slice(start, end, step).indices(shape[axis])[0], step)
    _taken(low, node, node.inputs[0], node.outputs[0], at)


def _taken(
    low: Lowering,
    node: onnx_ir.Node,
    source: onnx_ir.Value | None,
    result: onnx_ir.Value,
    place: dict[int, tuple[int, int]],
) -> None:
    """Define ``result`` as what begins in ``source`` at a place, with a step, of some axes."""
    rank = len(low.shape(source))
    layout = low.layout(source)
    order = to_last(rank) if layout == LAST else tuple(range(rank))
    shape = [low.shape(result)[a] for a in order]
    starts = [place.get(a, (0, 1)) for a in order]

    def taken(x: Expr) -> Expr:
        return te.compute(
            shape,
            lambda *i: x(*(s + n * step for n, (s, step) in zip(i, starts, strict=True))),
            name="slice",
        )

    low.define(result, low.te(taken, low.tensor(source, layout), name="slice"), layout)


@emits("Split")
def emit_split(low: Lowering, node: onnx_ir.Node) -> None:
    """Cut along an axis."""
    axis = attribute_int(node, "axis", 0) % len(low.shape(node.inputs[0]))
    start = 0
    for value in node.outputs:
        size = low.shape(value)[axis] if value.name else 0
        if list(value.uses()) or value.is_graph_output():
            _taken(low, node, node.inputs[0], value, {axis: (start, 1)})
        start += size


@emits("Pad", note="fixed pads")
def emit_pad(low: Lowering, node: onnx_ir.Node) -> None:
    """Put elements around: a constant, the edge, or the elements mirrored there."""
    shape, result = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    inputs = [*node.inputs, None, None, None]
    pads = [int(n) for n in low.required(inputs[1], "pads").reshape(-1)] if inputs[1] is not None \
        else [int(n) for n in ints(node, "pads", ())]  # fmt: skip
    axes = [int(a) % len(shape) for a in low.required(inputs[3], "axes").reshape(-1)] if inputs[3] is not None \
        else list(range(len(shape)))  # fmt: skip
    before = [0] * len(shape)
    for number, axis in enumerate(axes):
        before[axis] = pads[number]
    mode = attribute_string(node, "mode", "constant")
    dtype = low.dtype(node.outputs[0])
    fill = (
        low.known(inputs[2])
        if inputs[2] is not None
        else np.array(attribute_float(node, "value", 0.0))
    )
    if fill is None:
        raise Decline("the value to pad with must be constant")
    number = tirx.const(fill.reshape(-1)[0].item(), dtype)

    def padded(x: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            at = [n - b for n, b in zip(i, before, strict=True)]
            if mode != "constant":
                return x(*(_bent(n, d, mode) for n, d in zip(at, shape, strict=True)))
            inside = [
                c
                for n, d, r, b in zip(at, shape, result, before, strict=True)
                for c in ([n >= 0] if b > 0 else []) + ([n < d] if r > b + d else [])
            ]
            return tirx.if_then_else(tirx.all(*inside), x(*at), number) if inside else x(*at)

        return te.compute(result, one, name="pad")

    low.define(node.outputs[0], low.te(padded, low.tensor(node.inputs[0]), name="pad"))


def _bent(index: Expr, size: int, mode: str) -> Expr:
    if mode == "edge":
        return tirx.max(tirx.min(index, size - 1), 0)
    if mode == "wrap":
        return tirx.floormod(index, size)
    period = max(2 * (size - 1), 1)
    folded = tirx.floormod(index, period)
    return tirx.min(folded, period - folded) if size > 1 else tirx.const(0, "int32")


@emits("DepthToSpace", "SpaceToDepth")
def emit_depth(low: Lowering, node: onnx_ir.Node) -> None:
    """Exchange channels and blocks of pixels."""
    block = attribute_int(node, "blocksize", 1)
    n, c, h, w = low.shape(node.inputs[0])
    x = low.tensor(node.inputs[0])
    if node.op_type == "SpaceToDepth":
        view, axes = (n, c, h // block, block, w // block, block), (0, 3, 5, 1, 2, 4)
    elif attribute_string(node, "mode", "DCR") == "DCR":
        view, axes = (n, block, block, c // block**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        view, axes = (n, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3)
    moved = low.te(transposed(axes), low.reshaped(x, view), name="depth")
    low.define(node.outputs[0], low.reshaped(moved, low.shape(node.outputs[0])))


@emits(
    "Shape",
    "Size",
    "ConstantOfShape",
    "EyeLike",
    "Range",
    "Constant",
    note="folded when the model is compiled",
)
def emit_fixed(low: Lowering, node: onnx_ir.Node) -> None:
    """Take what was seen: sizes are fixed, so that it never changes."""
    if node.op_type == "Range":
        low.required(node.inputs[0], "its limits")
    low.define(node.outputs[0], low.constant(low.facts.array(node.outputs[0])))


@emits("Trilu", note="a fixed diagonal")
def emit_trilu(low: Lowering, node: onnx_ir.Node) -> None:
    """Keep what is on one side of a diagonal."""
    offset = int(low.required(node.inputs[1], "the diagonal").item()) if len(node.inputs) > 1 else 0
    upper = attribute_int(node, "upper", 1) != 0
    dtype = low.dtype(node.outputs[0])

    def kept(x: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            inside = i[-1] - i[-2] >= offset if upper else i[-1] - i[-2] <= offset
            return tirx.Select(inside, x(*i), tirx.const(0, dtype))

        return te.compute(x.shape, one, name="trilu")

    low.define(node.outputs[0], low.te(kept, low.tensor(node.inputs[0], PLAIN), name="trilu"))


@emits("ReverseSequence", "CenterCropPad", note="fixed sizes")
def emit_reverse(low: Lowering, node: onnx_ir.Node) -> None:
    """Turn the beginnings of sequences over, or cut and pad around the middle."""
    if node.op_type == "CenterCropPad":
        _crop(low, node)
        return
    batch, time = attribute_int(node, "batch_axis", 1), attribute_int(node, "time_axis", 0)

    def reversed_(x: Expr, lengths: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            length = tirx.Cast("int32", lengths(i[batch]))
            at = tirx.if_then_else(i[time] < length, length - 1 - i[time], i[time])
            return x(*(at if a == time else n for a, n in enumerate(i)))

        return te.compute(x.shape, one, name="reverse")

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(reversed_, *tensors, name="reverse"))


def _crop(low: Lowering, node: onnx_ir.Node) -> None:
    shape, result = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    offset = [
        (d - r) // 2 if d >= r else -((r - d) // 2) for d, r in zip(shape, result, strict=True)
    ]
    dtype = low.dtype(node.outputs[0])

    def cropped(x: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            at = [n + o for n, o in zip(i, offset, strict=True)]
            inside = [c for n, d in zip(at, shape, strict=True) for c in (n >= 0, n < d)]
            return tirx.if_then_else(tirx.all(*inside), x(*at), tirx.const(0, dtype))

        return te.compute(result, one, name="crop")

    assert math.prod(result) > 0
    low.define(node.outputs[0], low.te(cropped, low.tensor(node.inputs[0]), name="crop"))
