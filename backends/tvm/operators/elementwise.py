"""Operators that map every element by itself: activations, casts, Q and DQ."""

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST, Layout, to_last
from whet.backends.tvm.activations import UNARY, activation
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.kernels.extent import extent, extent_parts
from whet.backends.tvm.lowering import TYPES, Lowering
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_int

__all__ = ["converted", "emit_cast", "emit_unary"]

_FLOATS = ("float16", "float32", "float64")


@emits(*UNARY, note="Clip takes fixed limits")
def emit_unary(low: Lowering, node: onnx_ir.Node) -> None:
    """Map each element, in the layout that it is in."""
    found = activation(low, node)
    if found is None:
        raise Decline("its limits must be constant")
    apply = found.apply
    layout = low.layout(node.inputs[0])
    x = low.tensor(node.inputs[0], layout)

    def mapped(x: Expr) -> Expr:
        return te.compute(x.shape, lambda *i: apply(x(*i)), name=node.op_type.lower())

    low.define(node.outputs[0], low.te(mapped, x, name=node.op_type.lower()), layout)


@emits("Cast", "CastLike", note="between numbers of 16 to 64 bits, integers and truth values")
def emit_cast(low: Lowering, node: onnx_ir.Node) -> None:
    """Convert each element as C does: towards zero."""
    layout = low.layout(node.inputs[0])
    x = low.tensor(node.inputs[0], layout)
    target = low.dtype(node.outputs[0])
    if attribute_int(node, "to", 1) == 8 or target not in TYPES:
        raise Decline(f"casts to {target} are not supported")
    low.define(node.outputs[0], low.te(lambda x: _cast(x, target), x, name="cast"), layout)


def _cast(x: Expr, target: str) -> Expr:
    return te.compute(x.shape, lambda *i: converted(x(*i), target), name="cast")


def converted(x: Expr, target: str) -> Expr:
    """Return an element in another type."""
    source = str(x.ty)
    if source == target:
        return x
    if target == "bool":
        return x != tirx.const(0, source)
    if source == "bool":
        return tirx.Select(x, tirx.const(1, target), tirx.const(0, target))
    if source in _FLOATS and target in ("int8", "uint8", "int16", "uint16", "uint32"):
        x = tirx.Cast("int64", x)
    return tirx.Cast(target, x)


@emits(
    "QuantizeLinear",
    note="one scale for all or for each slice of an axis; integers of 8 or 16 bits",
)
def emit_quantize(low: Lowering, node: onnx_ir.Node) -> None:
    """Round to a grid, ties to even."""
    target = low.dtype(node.outputs[0])
    if target not in ("int8", "uint8", "int16", "uint16"):
        raise Decline(f"a grid of {target} is not supported")
    layout = low.layout(node.inputs[0])
    operands = [low.tensor(node.inputs[0], layout)]
    operands += [low.tensor(v) for v in node.inputs[1:] if v is not None]
    axis = _axis(low, node, layout)
    limits = np.iinfo(target)

    def quantized(x: Expr, scale: Expr, *zero: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            at = () if axis is None else (i[axis],)
            steps = tirx.nearbyint(
                tirx.Cast("float32", x(*i)) / tirx.Cast("float32", _of(scale, at))
            )
            if zero:
                steps = steps + tirx.Cast("float32", _of(zero[0], at))
            bounded = tirx.max(tirx.min(steps, float(limits.max)), float(limits.min))
            return tirx.Cast(target, tirx.Cast("int32", bounded))

        return te.compute(x.shape, one, name="quantize")

    low.define(node.outputs[0], low.te(quantized, *operands, name="quantize"), layout)


@emits("DequantizeLinear", note="one scale for all or for each slice of an axis")
def emit_dequantize(low: Lowering, node: onnx_ir.Node) -> None:
    """Return the numbers that integers stand for."""
    layout = low.layout(node.inputs[0])
    operands = [low.tensor(node.inputs[0], layout)]
    operands += [low.tensor(v) for v in node.inputs[1:] if v is not None]
    axis = _axis(low, node, layout)
    target = low.dtype(node.outputs[0])

    def real(x: Expr, scale: Expr, *zero: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            at = () if axis is None else (i[axis],)
            steps = tirx.Cast("int32", x(*i))
            if zero:
                steps = steps - tirx.Cast("int32", _of(zero[0], at))
            return tirx.Cast(
                target, tirx.Cast("float32", steps) * tirx.Cast("float32", _of(scale, at))
            )

        return te.compute(x.shape, one, name="dequantize")

    low.define(node.outputs[0], low.te(real, *operands, name="dequantize"), layout)


def _of(tensor: Expr, at: tuple[Expr, ...]) -> Expr:
    return tensor(*(at if len(tensor.shape) else ()), *([0] * (len(tensor.shape) - len(at))))


def _axis(low: Lowering, node: onnx_ir.Node, layout: Layout) -> int | None:
    scale = low.shape(node.inputs[1])
    if attribute_int(node, "block_size", 0) or len(scale) > 1:
        raise Decline("scales of blocks are supported for constants only")
    if not scale or scale == (1,):
        return None
    rank = len(low.shape(node.inputs[0]))
    axis = attribute_int(node, "axis", 1) % rank
    return to_last(rank).index(axis) if layout == LAST else axis


@emits("DynamicQuantizeLinear")
def emit_dynamic(low: Lowering, node: onnx_ir.Node) -> None:
    """Choose the grid of 8 bits that covers all elements and zero, then round to it."""
    x = low.tensor(node.inputs[0])
    shape = low.shape(node.inputs[0])

    parts = extent_parts(shape, low.machine)
    make = lambda: extent(shape, low.machine)  # noqa: E731
    bounds = low.call(("extent", shape), make, [x], (2, parts))
    none = tirx.FloatImm("float32", 0.0)

    def scale(bounds: Expr) -> Expr:
        def span() -> Expr:
            lowest, highest = none, none
            for k in range(parts):
                lowest = tirx.min(lowest, bounds(0, k))
                highest = tirx.max(highest, bounds(1, k))
            return (highest - lowest) / tirx.FloatImm("float32", 255.0)

        return te.compute((), span, name="scale")

    def zero_point(bounds: Expr, scale: Expr) -> Expr:
        def code() -> Expr:
            lowest = none
            for k in range(parts):
                lowest = tirx.min(lowest, bounds(0, k))
            return _rounded(none - lowest, scale())

        return te.compute((), code, name="zero")

    def quantized(x: Expr, scale: Expr, zero: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            steps = tirx.nearbyint(x(*i) / scale()) + tirx.Cast("float32", zero())
            return tirx.Cast("uint8", tirx.Cast("int32", tirx.max(tirx.min(steps, 255.0), 0.0)))

        return te.compute(x.shape, one, name="quantize")

    step = low.te(scale, bounds, name="dynamic_scale")
    zero = low.te(zero_point, bounds, step, name="dynamic_zero")
    values = (low.te(quantized, x, step, zero, name="quantize"), step, zero)
    for value, tensor in zip(node.outputs, values, strict=False):
        low.define(value, tensor)


def _rounded(x: Expr, scale: Expr) -> Expr:
    steps = tirx.nearbyint(x / scale)
    return tirx.Cast("uint8", tirx.Cast("int32", tirx.max(tirx.min(steps, 255.0), 0.0)))
