"""Conv and ConvTranspose."""

import math

import onnx_ir

from whet.backends.layouts import LAST
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.epilogue import find_ending
from whet.backends.tvm.kernels.convolution import (
    Axis,
    Window,
)
from whet.backends.tvm.kernels.writing import up
from whet.backends.tvm.lowering import Lowering, ints
from whet.backends.tvm.operators.dense import multiplied
from whet.backends.tvm.operators.integer import integer_convolved
from whet.backends.tvm.registry import Decline, emits
from whet.backends.tvm.works.depthwise import Depthwise
from whet.backends.tvm.works.windowed import Windowed
from whet.backends.windows import read_steps
from whet.ir.array import Array
from whet.ir.values import attribute_int, attribute_string

__all__ = ["emit_convolution"]


@emits("Conv", note="fixed weights in float32; 1 and 2 directions in space fast, others plainly")
def emit_convolution(low: Lowering, node: onnx_ir.Node) -> None:
    """Slide a window over pixels."""
    shape, kernel = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    weights = low.known(node.inputs[1])
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = low.known(bias_value)
    fast = weights is not None and len(shape) in (3, 4) and low.dtype(node.outputs[0]) == "float32"
    if not fast or (bias_value is not None and bias is None):
        _plain(low, node)
        return
    assert weights is not None
    result = low.shape(node.outputs[0])
    axes = [
        Axis(s, r, k, *rest)
        for s, r, k, rest in zip(
            shape[2:],
            result[2:],
            kernel[2:],
            read_steps(node, shape[2:], kernel[2:], result[2:]),
            strict=True,
        )
    ]
    y, x = axes if len(axes) == 2 else (Axis(1, 1, 1, 1, 1, 0), axes[0])
    groups = attribute_int(node, "group", 1)
    w = Window(shape[0], y, x, shape[1], result[1], groups)
    if integer_convolved(low, node, w, bias):
        return
    _windowed(low, node, w, weights.reshape(*kernel[:2], y.kernel, x.kernel), bias)


def _windowed(
    low: Lowering, node: onnx_ir.Node, w: Window, weights: Array, bias: Array | None
) -> None:
    """Call the kernel for a window, and do what follows the convolution in it."""
    machine = low.machine
    point = w.y.reach * w.x.reach * w.y.stride * w.x.stride == 1 and w.y.bare and w.x.bare
    given, _ = w.shapes()
    own = low.shape(node.outputs[0])
    last = (own[0], *own[2:], own[1])
    source = low.tensor(node.inputs[0], LAST)
    if len(own) == 3:
        source = low.reshaped(source, given)
    padded = up(w.outputs, machine.lanes)
    value, ending = find_ending(low, node, LAST, padded, bias)
    if point and w.groups == 1:
        made = multiplied(low, source, given, weights[:, :, 0, 0].T, ending)
    elif w.depth == 1 and w.outputs == w.inputs:
        made = low.cut(Depthwise(w, ending, machine), source, weights)
    else:
        made = low.cut(Windowed(w, ending, machine), source, weights)
    low.define(value, low.reshaped(made, last) if len(own) == 3 else made, LAST)


def _plain(low: Lowering, node: onnx_ir.Node) -> None:
    """Sum up in the standard's order of axes: any number of directions, any type, weights that are computed."""
    shape, kernel = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result, dtype = low.shape(node.outputs[0]), low.dtype(node.outputs[0])
    groups = attribute_int(node, "group", 1)
    steps = read_steps(node, shape[2:], kernel[2:], result[2:])
    own, depth = result[1] // groups, kernel[1]

    def whole(x: Expr, w: Expr, *b: Expr) -> Expr:
        c = te.reduce_axis((0, depth), "c")
        ks = [te.reduce_axis((0, k), "k") for k in kernel[2:]]

        def one(*i: Expr) -> Expr:
            at = [n * s + k * d - p for n, k, (s, d, p) in zip(i[2:], ks, steps, strict=True)]
            inside = [t for n, d in zip(at, shape[2:], strict=True) for t in (n >= 0, n < d)]
            value = x(i[0], tirx.floordiv(i[1], own) * depth + c, *at) * w(i[1], c, *ks)
            return te.sum(
                tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dtype)), axis=[c, *ks]
            )

        product = te.compute(result, one, name="conv")
        return (
            te.compute(result, lambda *i: product(*i) + b[0](i[1]), name="bias") if b else product
        )

    tensors = [low.tensor(v) for v in node.inputs if v is not None]
    low.define(node.outputs[0], low.te(whole, *tensors, name="conv"))


@emits("ConvTranspose", note="any sizes, plainly")
def emit_transposed(low: Lowering, node: onnx_ir.Node) -> None:
    """Sum up, for each result, the pixels whose window covers it."""
    shape, kernel = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result, dtype = low.shape(node.outputs[0]), low.dtype(node.outputs[0])
    groups, count = attribute_int(node, "group", 1), len(shape) - 2
    strides = ints(node, "strides", (1,) * count)
    dilations = ints(node, "dilations", (1,) * count)
    before = _transposed_pads(node, shape[2:], kernel[2:], result[2:])
    own, depth = kernel[1], shape[1] // groups

    def whole(x: Expr, w: Expr, *b: Expr) -> Expr:
        c = te.reduce_axis((0, depth), "c")
        ks = [te.reduce_axis((0, k), "k") for k in kernel[2:]]

        def one(*i: Expr) -> Expr:
            far = [n + p - k * d for n, k, d, p in zip(i[2:], ks, dilations, before, strict=True)]
            at = [tirx.floordiv(f, s) for f, s in zip(far, strides, strict=True)]
            inside = [
                t
                for f, n, s, d in zip(far, at, strides, shape[2:], strict=True)
                for t in (tirx.floormod(f, s) == 0, n >= 0, n < d)
            ]
            source = tirx.floordiv(i[1], own) * depth + c
            value = x(i[0], source, *at) * w(source, tirx.floormod(i[1], own), *ks)
            return te.sum(
                tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dtype)), axis=[c, *ks]
            )

        product = te.compute(result, one, name="conv_transpose")
        return (
            te.compute(result, lambda *i: product(*i) + b[0](i[1]), name="bias") if b else product
        )

    tensors = [low.tensor(v) for v in node.inputs if v is not None]
    low.define(node.outputs[0], low.te(whole, *tensors, name="conv_transpose"))


def _transposed_pads(
    node: onnx_ir.Node, size: tuple[int, ...], kernel: tuple[int, ...], result: tuple[int, ...]
) -> list[int]:
    count = len(size)
    strides = ints(node, "strides", (1,) * count)
    dilations = ints(node, "dilations", (1,) * count)
    extra = ints(node, "output_padding", (0,) * count)
    auto = attribute_string(node, "auto_pad", "NOTSET")
    if auto == "NOTSET" and "output_shape" not in node.attributes:
        return [int(p) for p in ints(node, "pads", (0,) * 2 * count)[:count]]
    if auto == "VALID":
        return [0] * count
    found: list[int] = []
    for s, k, t, d, r, e in zip(size, kernel, strides, dilations, result, extra, strict=True):
        total = max(t * (s - 1) + e + (k - 1) * d + 1 - r, 0)
        found.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return found


@emits("ConvInteger", note="one zero point for each operand")
def emit_integer(low: Lowering, node: onnx_ir.Node) -> None:
    """Slide a window of integers over pixels; sums have 32 bits."""
    shape, kernel = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result = low.shape(node.outputs[0])
    zeros = [node.inputs[k] if len(node.inputs) > k else None for k in (2, 3)]
    if any(z is not None and math.prod(low.shape(z)) > 1 for z in zeros):
        raise Decline("a zero point for each channel is not supported")
    steps = read_steps(node, shape[2:], kernel[2:], result[2:])
    own = result[1] // attribute_int(node, "group", 1)
    there = [z is not None for z in zeros]

    def whole(x: Expr, w: Expr, *z: Expr) -> Expr:
        given = iter(z)
        both = [next(given) if has else None for has in there]
        c = te.reduce_axis((0, kernel[1]), "c")
        ks = [te.reduce_axis((0, k), "k") for k in kernel[2:]]

        def number(value: Expr, zero: Expr | None) -> Expr:
            found = tirx.Cast("int32", value)
            return (
                found
                if zero is None
                else found - tirx.Cast("int32", zero(*([0] * len(zero.shape))))
            )

        def one(*i: Expr) -> Expr:
            at = [n * s + k * d - p for n, k, (s, d, p) in zip(i[2:], ks, steps, strict=True)]
            inside = [t for n, d in zip(at, shape[2:], strict=True) for t in (n >= 0, n < d)]
            pixel = number(x(i[0], tirx.floordiv(i[1], own) * kernel[1] + c, *at), both[0])
            value = pixel * number(w(i[1], c, *ks), both[1])
            return te.sum(tirx.if_then_else(tirx.all(*inside), value, 0), axis=[c, *ks])

        return te.compute(result, one, name="conv_integer")

    tensors = [low.tensor(v) for v in (*node.inputs[:2], *zeros) if v is not None]
    low.define(node.outputs[0], low.te(whole, *tensors, name="conv_integer"))
