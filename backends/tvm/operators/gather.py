"""Operators that read and write where other tensors say."""

import onnx_ir

from whet.backends.tvm.api import Expr, te, tirx, topi
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_int, attribute_string

__all__ = ["emit_gather"]


def _wrapped(index: Expr, size: int) -> Expr:
    """Return an index counted from the front, and inside."""
    number = tirx.Cast("int64", index)
    limit = tirx.const(size, "int64")
    found = tirx.Select(number < 0, number + limit, number)
    return tirx.max(tirx.min(found, limit - 1), tirx.const(0, "int64"))


@emits("Gather", note="an index out of range takes the nearest one")
def emit_gather(low: Lowering, node: onnx_ir.Node) -> None:
    """Take slices of an axis."""
    shape, picked = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    axis = attribute_int(node, "axis", 0) % len(shape)
    result = low.shape(node.outputs[0])
    known = low.known(node.inputs[1])
    if known is not None and known.size == 1:
        at = int(known.item()) % shape[axis]

        def slice_(x: Expr) -> Expr:
            skip = axis + len(picked)
            return te.compute(result, lambda *i: x(*i[:axis], at, *i[skip:]), name="pick")

        low.define(node.outputs[0], low.te(slice_, low.tensor(node.inputs[0]), name="pick"))
        return

    def gathered(x: Expr, at: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            index = _wrapped(at(*i[axis : axis + len(picked)]), shape[axis])
            return x(*i[:axis], index, *i[axis + len(picked) :])

        return te.compute(result, one, name="gather")

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(gathered, *tensors, name="gather"))


@emits("GatherElements", note="an index out of range takes the nearest one")
def emit_gather_elements(low: Lowering, node: onnx_ir.Node) -> None:
    """Take one element each."""
    shape = low.shape(node.inputs[0])
    axis = attribute_int(node, "axis", 0) % len(shape)

    def gathered(x: Expr, at: Expr) -> Expr:
        return te.compute(
            at.shape,
            lambda *i: x(*i[:axis], _wrapped(at(*i), shape[axis]), *i[axis + 1 :]),
            name="gather_elements",
        )

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(gathered, *tensors, name="gather_elements"))


@emits("GatherND", note="an index out of range takes the nearest one")
def emit_gather_nd(low: Lowering, node: onnx_ir.Node) -> None:
    """Take slices at places that have several coordinates."""
    shape, places = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    batch = attribute_int(node, "batch_dims", 0)
    depth = places[-1]

    def gathered(x: Expr, at: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            lead = i[: len(places) - 1]
            index = [_wrapped(at(*lead, k), shape[batch + k]) for k in range(depth)]
            return x(*i[:batch], *index, *i[len(places) - 1 :])

        return te.compute(low.shape(node.outputs[0]), one, name="gather_nd")

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(gathered, *tensors, name="gather_nd"))


@emits("ScatterElements", "Scatter", note="no reduction, or add, mul, max, min")
def emit_scatter_elements(low: Lowering, node: onnx_ir.Node) -> None:
    """Write one element each."""
    reduction = _reduction(node)
    shape = low.shape(node.inputs[0])
    axis = attribute_int(node, "axis", 0) % len(shape)
    tensors = [low.tensor(v) for v in node.inputs]
    low.define(
        node.outputs[0],
        low.te(
            lambda x, at, new: topi.scatter_elements(x, at, new, axis, reduction),
            *tensors,
            name="scatter",
        ),
    )


@emits("ScatterND", note="no reduction, or add, mul, max, min")
def emit_scatter_nd(low: Lowering, node: onnx_ir.Node) -> None:
    """Write slices at places that have several coordinates."""
    reduction = _reduction(node)
    places = low.shape(node.inputs[1])
    order = (len(places) - 1, *range(len(places) - 1))
    tensors = [low.tensor(v) for v in node.inputs]

    def scattered(x: Expr, at: Expr, new: Expr) -> Expr:
        return topi.scatter_nd(x, topi.transpose(at, order), new, reduction)

    low.define(node.outputs[0], low.te(scattered, *tensors, name="scatter_nd"))


def _reduction(node: onnx_ir.Node) -> str:
    found = attribute_string(node, "reduction", "none")
    if found not in ("none", "add", "mul", "max", "min"):
        raise Decline(f"reduction '{found}' is not supported")
    return {"none": "update"}.get(found, found)


@emits("OneHot", note="a fixed depth")
def emit_one_hot(low: Lowering, node: onnx_ir.Node) -> None:
    """Write one value at each index and another one everywhere else."""
    result = low.shape(node.outputs[0])
    axis = attribute_int(node, "axis", -1) % len(result)
    depth = int(low.required(node.inputs[1], "the depth").reshape(-1)[0])

    def hot(at: Expr, values: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            index = tirx.Cast("int64", at(*i[:axis], *i[axis + 1 :]))
            place = tirx.Select(index < 0, index + depth, index)
            return tirx.Select(place == tirx.Cast("int64", i[axis]), values(1), values(0))

        return te.compute(result, one, name="one_hot")

    tensors = [low.tensor(node.inputs[0]), low.tensor(node.inputs[2])]
    low.define(node.outputs[0], low.te(hot, *tensors, name="one_hot"))


@emits("TopK", note="a fixed count, the last axis sorted")
def emit_topk(low: Lowering, node: onnx_ir.Node) -> None:
    """Select the largest or smallest elements of an axis, by counting how many come before each."""
    shape = low.shape(node.inputs[0])
    axis = attribute_int(node, "axis", -1) % len(shape)
    largest = attribute_int(node, "largest", 1) != 0
    size = shape[axis]
    count = low.shape(node.outputs[0])[axis]

    def ranks(x: Expr) -> Expr:
        k = te.reduce_axis((0, size), "k")

        def one(*i: Expr) -> Expr:
            other, own = x(*i[:axis], k, *i[axis + 1 :]), x(*i)
            first = other > own if largest else other < own
            before = tirx.any(first, tirx.all(other == own, k < i[axis]))
            return te.sum(
                tirx.Select(before, tirx.const(1, "int32"), tirx.const(0, "int32")), axis=k
            )

        return te.compute(shape, one, name="ranks")

    def places(order: Expr) -> Expr:
        k = te.reduce_axis((0, size), "k")

        def one(*i: Expr) -> Expr:
            here = order(*i[:axis], k, *i[axis + 1 :]) == tirx.Cast("int32", i[axis])
            number = tirx.Cast("int64", k)
            return te.max(tirx.Select(here, number, tirx.const(-1, "int64")), axis=k)

        return te.compute(low.shape(node.outputs[1]), one, name="places")

    def values(x: Expr, at: Expr) -> Expr:
        return te.compute(at.shape, lambda *i: x(*i[:axis], at(*i), *i[axis + 1 :]), name="values")

    assert count <= size
    x = low.tensor(node.inputs[0])
    order = low.te(ranks, x, name="topk_ranks")
    at = low.te(places, order, name="topk_places")
    low.define(node.outputs[0], low.te(values, x, at, name="topk_values"))
    low.define(node.outputs[1], at)
