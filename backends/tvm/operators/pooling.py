"""Pools, and what changes the number of pixels."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir

from whet.backends.layouts import LAST, to_last
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.lowering import Lowering, ints
from whet.backends.tvm.operators.reduction import largest
from whet.backends.tvm.registry import Decline, emits
from whet.backends.windows import read_steps
from whet.ir.array import Array
from whet.ir.values import attribute_float, attribute_int, attribute_string

__all__ = ["emit_pool", "emit_resize"]

_Numbers = npt.NDArray[np.float64]


@emits("MaxPool", "AveragePool", "LpPool", note="without indices")
def emit_pool(low: Lowering, node: onnx_ir.Node) -> None:
    """Reduce windows of pixels."""
    if len(node.outputs) > 1 and node.outputs[1].name:
        raise Decline("indices are not handed out")
    kind, dtype = node.op_type, low.dtype(node.outputs[0])
    shape, result = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    kernel = tuple(int(k) for k in ints(node, "kernel_shape", ()))
    steps = read_steps(node, shape[2:], kernel, result[2:])
    padded = attribute_int(node, "count_include_pad", 0) != 0
    power = attribute_int(node, "p", 2)
    layout = low.layout(node.inputs[0])
    order = to_last(len(shape)) if layout == LAST else tuple(range(len(shape)))
    start = 1 if layout == LAST else 2
    low_, high = _borders(node, shape, kernel, result, steps)
    lowest = tirx.min_value(dtype) if kind == "MaxPool" else tirx.const(0, dtype)

    def whole(x: Expr) -> Expr:
        ks = [te.reduce_axis((0, k), "k") for k in kernel]

        def places(i: tuple[Expr, ...]) -> list[Expr]:
            mine = i[start : start + len(kernel)]
            return [n * s + k * d - p for n, k, (s, d, p) in zip(mine, ks, steps, strict=True)]

        def inside(i: tuple[Expr, ...]) -> Expr:
            at = places(i)
            return tirx.all(
                *(t for n, d in zip(at, shape[2:], strict=True) for t in (n >= 0, n < d))
            )

        def one(*i: Expr) -> Expr:
            at = places(i)
            value = x(*i[:start], *at, *i[start + len(kernel) :])
            if kind == "LpPool":
                value = (
                    tirx.abs(value)
                    if power == 1
                    else tirx.power(tirx.abs(value), tirx.const(power, dtype))
                )
            value = tirx.if_then_else(inside(i), value, lowest)
            return (largest if kind == "MaxPool" else te.sum)(value, axis=ks)

        final = tuple(result[a] for a in order)
        found = te.compute(final, one, name="window")
        if kind == "MaxPool":
            return found
        if kind == "LpPool":
            root = 1 / power
            return te.compute(
                final, lambda *i: tirx.power(found(*i), tirx.const(root, dtype)), name="root"
            )

        def mean(*i: Expr) -> Expr:
            count: Expr = None
            mine = i[start : start + len(kernel)]
            for axis, (n, (s, d, p)) in enumerate(zip(mine, steps, strict=True)):
                first = n * s - p
                limit = (low_[axis], high[axis]) if padded else (0, shape[2 + axis])
                part = _counted(first, kernel[axis], d, limit)
                count = part if count is None else count * part
            return found(*i) / tirx.Cast(dtype, count)

        return te.compute(final, mean, name="mean")

    x = low.tensor(node.inputs[0], layout)
    low.define(node.outputs[0], low.te(whole, x, name=kind.lower()), layout)


def _borders(
    node: onnx_ir.Node,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    result: tuple[int, ...],
    steps: list[tuple[int, int, int]],
) -> tuple[list[int], list[int]]:
    """Return from where to where the pixels go, with the border; a window that is rounded up may reach beyond."""
    count = len(kernel)
    given = ints(node, "pads", (0,) * 2 * count)
    auto = attribute_string(node, "auto_pad", "NOTSET")
    first = [-p for _, _, p in steps]
    last: list[int] = []
    for a in range(count):
        stride, dilation, before = steps[a]
        behind = int(given[count + a])
        if auto.startswith("SAME"):
            reach = (kernel[a] - 1) * dilation + 1
            behind = max((result[a] - 1) * stride + reach - shape[2 + a], 0) - before
        last.append(shape[2 + a] + behind)
    return first, last


def _counted(first: Expr, kernel: int, dilation: int, limit: tuple[int, int]) -> Expr:
    """Return how many of ``first``, ``first + dilation``, … lie inside."""
    low, high = limit
    skipped = tirx.max(0, tirx.floordiv(low - first + dilation - 1, dilation))
    reached = tirx.min(kernel, tirx.floordiv(high - first + dilation - 1, dilation))
    return tirx.max(reached - skipped, 1)


@emits("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def emit_global(low: Lowering, node: onnx_ir.Node) -> None:
    """Reduce all pixels of a channel."""
    kind, dtype = node.op_type, low.dtype(node.outputs[0])
    shape = low.shape(node.inputs[0])
    layout = low.layout(node.inputs[0])
    power = attribute_int(node, "p", 2)
    count = math.prod(shape[2:])

    def whole(x: Expr) -> Expr:
        ks = [te.reduce_axis((0, d), "k") for d in shape[2:]]

        def one(n: Expr, c: Expr) -> Expr:
            value = x(n, *ks, c) if layout == LAST else x(n, c, *ks)
            if kind == "GlobalLpPool":
                value = (
                    tirx.abs(value)
                    if power == 1
                    else tirx.power(tirx.abs(value), tirx.const(power, dtype))
                )
            return (largest if kind == "GlobalMaxPool" else te.sum)(value, axis=ks)

        found = te.compute(shape[:2], one, name="pool")
        if kind == "GlobalMaxPool":
            return found
        if kind == "GlobalLpPool":
            root = tirx.const(1 / power, dtype)
            return te.compute(shape[:2], lambda n, c: tirx.power(found(n, c), root), name="root")
        return te.compute(
            shape[:2], lambda n, c: found(n, c) / tirx.const(count, dtype), name="mean"
        )

    x = low.te(whole, low.tensor(node.inputs[0], layout), name=kind.lower())
    ones = (1,) * (len(shape) - 2)
    low.define(node.outputs[0], low.reshaped(x, (*shape[:2], *ones)))
    if len(shape) > 2:
        low.define(node.outputs[0], low.reshaped(x, (shape[0], *ones, shape[1])), LAST)


@emits("Resize", "Upsample", note="nearest, linear and cubic; fixed sizes; no antialias")
def emit_resize(low: Lowering, node: onnx_ir.Node) -> None:
    """Sample each axis anew: a sum of a few elements with fixed weights, axis by axis."""
    shape, result = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    mode = attribute_string(node, "mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise Decline(f"mode '{mode}' is not supported")
    if (
        attribute_string(node, "coordinate_transformation_mode", "half_pixel")
        == "tf_crop_and_resize"
    ):
        raise Decline("tf_crop_and_resize is not supported")
    if attribute_int(node, "antialias", 0):
        raise Decline("antialias=1 is not supported")
    dtype = low.dtype(node.outputs[0])
    x = low.tensor(node.inputs[0])
    scales = _scales(low, node, shape, result)
    now = list(shape)
    for axis, (size, wanted) in enumerate(zip(shape, result, strict=True)):
        if size == wanted and scales[axis] == 1:
            continue
        places, weights = _samples(node, mode, size, wanted, scales[axis])
        now[axis] = wanted
        x = _resampled(low, x, axis, tuple(now), places, weights, dtype)
    low.define(node.outputs[0], x)


def _resampled(
    low: Lowering,
    x: Expr,
    axis: int,
    shape: tuple[int, ...],
    places: Array,
    weights: Array,
    dtype: str,
) -> Expr:
    taps = places.shape[1]

    def moved(x: Expr, at: Expr, by: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            found: Expr = None
            for t in range(taps):
                value = x(*i[:axis], at(i[axis], t), *i[axis + 1 :])
                if taps > 1:
                    value = tirx.Cast("float32", value) * by(i[axis], t)
                found = value if found is None else found + value
            return found if taps == 1 else tirx.Cast(dtype, found)

        return te.compute(shape, one, name="resize")

    given = [low.constant(places.astype(np.int32)), low.constant(weights.astype(np.float32))]
    if taps == 1:
        return low.te(lambda x, at: moved(x, at, None), x, given[0], name="resize")
    return low.te(moved, x, *given, name="resize")


def _scales(
    low: Lowering, node: onnx_ir.Node, shape: tuple[int, ...], result: tuple[int, ...]
) -> list[float]:
    """Return the factor of each axis: those given, or those that the sizes make."""
    if node.op_type == "Upsample":
        value = node.inputs[1] if len(node.inputs) > 1 else None
    else:
        value = node.inputs[2] if len(node.inputs) > 2 else None
    axes = [int(a) % len(shape) for a in ints(node, "axes", tuple(range(len(shape))))]
    found = [r / s for r, s in zip(result, shape, strict=True)]
    known = low.required(value, "scales") if value is not None else None
    if known is not None and known.size:
        for axis, scale in zip(axes, known.reshape(-1), strict=True):
            found[axis] = float(scale)
    elif attribute_string(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        sizes = low.required(node.inputs[3], "sizes").reshape(-1)
        ratios = [int(n) / shape[a] for a, n in zip(axes, sizes, strict=True)]
        larger = attribute_string(node, "keep_aspect_ratio_policy", "") == "not_larger"
        for axis in axes:
            found[axis] = min(ratios) if larger else max(ratios)
    return found


def _samples(
    node: onnx_ir.Node, mode: str, size: int, wanted: int, scale: float
) -> tuple[Array, Array]:
    """Return which elements make each element of the result, and how much of each."""
    at = _places(node, size, wanted, scale)
    if mode == "nearest":
        rule = attribute_string(node, "nearest_mode", "round_prefer_floor")
        if node.op_type == "Upsample":
            rule = "floor"
        rounding: dict[str, Callable[[_Numbers], _Numbers]] = {
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }
        picked = np.clip(rounding[rule](at), 0, size - 1).astype(np.int32)
        return picked[:, None], np.ones((wanted, 1), np.float32)
    reach = 1 if mode == "linear" else 2
    first = np.floor(at - reach).astype(np.int64) + 1
    places = first[:, None] + np.arange(2 * reach)
    away = np.abs(at[:, None] - places)
    cubic = attribute_float(node, "cubic_coeff_a", -0.75)
    weights = np.maximum(1 - away, 0) if mode == "linear" else _cubic(away, cubic)
    if attribute_int(node, "exclude_outside", 0):
        weights = np.where((places >= 0) & (places < size), weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, size - 1), weights


def _cubic(away: _Numbers, a: float) -> _Numbers:
    """Return Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * away - (a + 3)) * away**2 + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    return np.where(away <= 1, near, np.where(away < 2, far, 0))


def _places(node: onnx_ir.Node, size: int, wanted: int, scale: float) -> _Numbers:
    """Return where each element of the result lies among those of the input."""
    mode = attribute_string(node, "coordinate_transformation_mode", "half_pixel")
    if node.op_type == "Upsample":
        mode = "asymmetric"
    number = np.arange(wanted, dtype=np.float64)
    if mode == "asymmetric":
        return number / scale
    if mode == "align_corners":
        return number * (size - 1) / (scale * size - 1) if wanted > 1 else number * 0
    if mode == "pytorch_half_pixel" and wanted == 1:
        return number * 0 - 0.5
    if mode == "half_pixel_symmetric":
        whole = scale * size
        return size / 2 * (1 - wanted / whole) + (number + 0.5) / scale - 0.5
    return (number + 0.5) / scale - 0.5
