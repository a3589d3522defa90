"""Norms and softmax."""

import math

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.kernels.rows import normalized, softmax
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.mathematics import exp
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_norm", "emit_softmax"]


@emits("Softmax", "LogSoftmax")
def emit_softmax(low: Lowering, node: onnx_ir.Node) -> None:
    """Divide exponentials by their sum along an axis."""
    shape, dtype = low.shape(node.inputs[0]), low.dtype(node.inputs[0])
    axis = attribute_int(node, "axis", -1) % len(shape)
    log = node.op_type == "LogSoftmax"
    if dtype == "float32" and axis == len(shape) - 1:
        key = ("softmax", shape, log)
        made = low.call(
            key, lambda: softmax(shape, low.machine, log=log), [low.tensor(node.inputs[0])], shape
        )
        low.define(node.outputs[0], made)
        return

    half = dtype == "float16"

    def whole(given: Expr) -> Expr:
        x = (
            te.compute(shape, lambda *i: tirx.Cast("float32", given(*i)), name="wide")
            if half
            else given
        )
        found = computed(x)
        if not half:
            return found
        return te.compute(shape, lambda *i: tirx.Cast("float16", found(*i)), name="rounded")

    def computed(x: Expr) -> Expr:
        def along(i: tuple[Expr, ...], k: Expr) -> tuple[Expr, ...]:
            return (*i[:axis], k, *i[axis:])

        def without(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return (*i[:axis], *i[axis + 1 :])

        rest = without(tuple(shape))
        k, m = (te.reduce_axis((0, shape[axis]), n) for n in "km")
        top = te.compute(rest, lambda *i: te.max(x(*along(i, k)), axis=k), name="top")
        shifted = te.compute(shape, lambda *i: exp(x(*i) - top(*without(i))), name="shifted")
        total = te.compute(rest, lambda *i: te.sum(shifted(*along(i, m)), axis=m), name="total")
        if log:
            return te.compute(
                shape,
                lambda *i: x(*i) - top(*without(i)) - tirx.log(total(*without(i))),
                name="end",
            )
        return te.compute(shape, lambda *i: shifted(*i) / total(*without(i)), name="end")

    low.define(node.outputs[0], low.te(whole, low.tensor(node.inputs[0]), name="softmax"))


@emits(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    note="float32; one output",
)
def emit_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Bring the last axes to a mean of zero, or not, and a mean square of one."""
    shape = low.shape(node.inputs[0])
    axis = attribute_int(node, "axis", -1) % len(shape)
    size = math.prod(shape[axis:])
    if any(v.name and (list(v.uses()) or v.is_graph_output()) for v in node.outputs[1:]):
        raise Decline("mean and deviation are not handed out")
    operands = [v for v in node.inputs[1:] if v is not None]
    if low.dtype(node.inputs[0]) != "float32" or any(low.dtype(v) != "float32" for v in operands):
        raise Decline(f"{low.dtype(node.inputs[0])} elements, only float32 is supported")
    centred = node.op_type == "LayerNormalization"
    tensors = [_row(low, v, shape[axis:]) for v in operands]
    epsilon = attribute_float(node, "epsilon", 1e-5)
    key = ("norm", shape, size, epsilon, centred, len(operands))
    made = low.call(
        key,
        lambda: normalized(
            shape, size, low.machine, epsilon=epsilon, centred=centred,
            scaled=len(operands) > 0, shifted=len(operands) > 1,
        ),
        [low.tensor(node.inputs[0]), *tensors],
        shape,
    )  # fmt: skip
    low.define(node.outputs[0], made)


def _row(low: Lowering, value: onnx_ir.Value, shape: tuple[int, ...]) -> Expr:
    """Return a factor or a term for each element of a row."""
    known = low.known(value)
    if known is not None:
        return low.constant(np.ascontiguousarray(np.broadcast_to(known, shape)).reshape(-1))
    if math.prod(low.shape(value)) != math.prod(shape):
        raise Decline("scale and bias must have the shape of the axes that are normalized")
    return low.reshaped(low.tensor(value), (math.prod(shape),))


@emits("BatchNormalization", note="fixed statistics")
def emit_batch_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Scale and shift each channel."""
    if attribute_int(node, "training_mode", 0):
        raise Decline("training_mode=1 is not supported: export the model for inference")
    scale, bias, mean, variance = (low.tensor(v) for v in node.inputs[1:])
    epsilon = attribute_float(node, "epsilon", 1e-5)
    dtype = low.dtype(node.outputs[0])
    layout = low.layout(node.inputs[0])
    axis = -1 if layout == LAST else 1

    def whole(x: Expr, s: Expr, b: Expr, m: Expr, v: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            c = i[axis] if len(i) > 1 else 0
            factor = s(c) / tirx.sqrt(v(c) + tirx.const(epsilon, dtype))
            return (x(*i) - m(c)) * factor + b(c)

        return te.compute(x.shape, one, name="batch_norm")

    x = low.tensor(node.inputs[0], layout)
    low.define(
        node.outputs[0], low.te(whole, x, scale, bias, mean, variance, name="batch_norm"), layout
    )


@emits("InstanceNormalization", "GroupNormalization", note="float32")
def emit_group_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Bring groups of channels to mean zero and variance one, then scale and shift each channel."""
    shape = low.shape(node.inputs[0])
    if low.dtype(node.inputs[0]) != "float32":
        raise Decline(f"{low.dtype(node.inputs[0])} elements, only float32 is supported")
    channels = shape[1]
    groups = (
        channels
        if node.op_type == "InstanceNormalization"
        else attribute_int(node, "num_groups", 1)
    )
    size = math.prod(shape[1:]) // groups
    epsilon = attribute_float(node, "epsilon", 1e-5)
    key = ("norm", shape, size, epsilon, True, 0)
    made = low.call(
        key,
        lambda: normalized(
            shape, size, low.machine, epsilon=epsilon, centred=True, scaled=False, shifted=False
        ),
        [low.tensor(node.inputs[0])],
        shape,
    )
    given = [low.tensor(v) for v in node.inputs[1:]]
    share = channels // low.shape(node.inputs[1])[0]

    def end(x: Expr, s: Expr, b: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            c = tirx.floordiv(i[1], share)
            return x(*i) * s(c) + b(c)

        return te.compute(x.shape, one, name="affine")

    low.define(node.outputs[0], low.te(end, made, *given, name="affine"))


@emits("LpNormalization")
def emit_lp_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Divide by the norm along an axis; by one where that is zero."""
    shape, dtype = low.shape(node.inputs[0]), low.dtype(node.inputs[0])
    axis = attribute_int(node, "axis", -1) % len(shape)
    power = attribute_int(node, "p", 2)

    def whole(x: Expr) -> Expr:
        k = te.reduce_axis((0, shape[axis]), "k")
        rest = (*shape[:axis], *shape[axis + 1 :])

        def part(*i: Expr) -> Expr:
            value = x(*i[:axis], k, *i[axis:])
            return te.sum(tirx.abs(value) if power == 1 else value * value, axis=k)

        norm = te.compute(rest, part, name="norm")

        def one(*i: Expr) -> Expr:
            n = norm(*i[:axis], *i[axis + 1 :])
            root = n if power == 1 else tirx.sqrt(n)
            return x(*i) / tirx.Select(root == tirx.const(0, dtype), tirx.const(1, dtype), root)

        return te.compute(shape, one, name="scaled")

    low.define(node.outputs[0], low.te(whole, low.tensor(node.inputs[0]), name="lp_norm"))
