"""Operators that reduce axes."""

import math
from collections.abc import Callable, Mapping
from typing import cast

import onnx_ir

from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.lowering import Lowering, ints
from whet.backends.tvm.mathematics import exp
from whet.backends.tvm.operators.elementwise import converted
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_int

__all__ = ["emit_reduce", "largest", "smallest"]


def _same(x: Expr) -> Expr:
    return x


_BEFORE: Mapping[str, Callable[[Expr], Expr]] = {
    "ReduceL1": tirx.abs,
    "ReduceL2": lambda x: x * x,
    "ReduceSumSquare": lambda x: x * x,
    "ReduceLogSumExp": exp,
}
_BEHIND: Mapping[str, Callable[[Expr], Expr]] = {
    "ReduceL2": tirx.sqrt,
    "ReduceLogSum": tirx.log,
    "ReduceLogSumExp": tirx.log,
}
_WIDE = {"int8": "int32", "uint8": "uint32", "float16": "float32"}
"""What sums of a type are held in."""
_total = cast("Callable[..., Expr]", te.sum)
"""TVM says that its sum may be None, which it is not."""
_NAMES = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


@emits(*_NAMES, note="fixed axes")
def emit_reduce(low: Lowering, node: onnx_ir.Node) -> None:
    """Reduce axes by a sum, a product or an extreme."""
    kind = node.op_type
    shape, dtype = low.shape(node.inputs[0]), low.dtype(node.inputs[0])
    axes = _axes(low, node, len(shape))
    result = low.shape(node.outputs[0])
    if not axes:
        identity = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"}
        if kind not in identity:
            raise Decline("without axes it only changes single elements: leave it out")
        low.define(node.outputs[0], low.tensor(node.inputs[0]))
        return
    if kind == "ReduceLogSumExp":
        _log_sum_exp(low, node, axes)
        return
    boolean = dtype == "bool"
    before = _BEFORE.get(kind, _same)
    behind = _BEHIND.get(kind, _same)
    folds: Mapping[str, Callable[..., Expr]] = {
        "ReduceMax": largest,
        "ReduceMin": smallest,
        "ReduceProd": _product,
    }
    fold = folds.get(kind, _total)
    count = math.prod(shape[a] for a in axes)
    wide = _WIDE.get(dtype, dtype) if fold is _total else dtype

    def reduced(x: Expr) -> Expr:
        found = _fold(x, axes, fold, lambda v: before(converted(v, "int8" if boolean else wide)))
        kept = [d for a, d in enumerate(shape) if a not in axes]

        def end(v: Expr) -> Expr:
            v = behind(v)
            if kind == "ReduceMean":
                number = tirx.const(count, str(v.ty))
                v = v / number if "float" in wide else tirx.truncdiv(v, number)
            return converted(v, dtype)

        return te.compute(kept, lambda *i: end(found(*i)), name="end")

    x = low.te(reduced, low.tensor(node.inputs[0]), name=kind.lower())
    low.define(node.outputs[0], low.reshaped(x, result))


def _limit(dtype: str, above: bool) -> Expr:
    if "float" in dtype:
        infinite = tirx.infinity(dtype)
        return infinite if above else tirx.const(0, dtype) - infinite
    return tirx.max_value(dtype) if above else tirx.min_value(dtype)


def largest(x: Expr, axis: Expr) -> Expr:
    """Return the largest element of axes; TVM's own knows none that is infinitely small."""
    return tirx.comm_reducer(lambda a, b: tirx.max(a, b), lambda t: _limit(str(t), above=False))(
        x, axis=axis
    )


def smallest(x: Expr, axis: Expr) -> Expr:
    """Return the smallest element of axes."""
    return tirx.comm_reducer(lambda a, b: tirx.min(a, b), lambda t: _limit(str(t), above=True))(
        x, axis=axis
    )


def _product(x: Expr, axis: Expr) -> Expr:
    return tirx.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, t))(x, axis=axis)


def _fold(
    x: Expr, axes: tuple[int, ...], fold: Callable[..., Expr], before: Callable[[Expr], Expr]
) -> Expr:
    """Return a tensor without some axes."""
    inner = {a: te.reduce_axis((0, x.shape[a]), f"k{a}") for a in axes}
    kept = [a for a in range(len(x.shape)) if a not in axes]

    def one(*i: Expr) -> Expr:
        at = [inner[a] if a in inner else i[kept.index(a)] for a in range(len(x.shape))]
        return fold(before(x(*at)), axis=list(inner.values()))

    return te.compute([x.shape[a] for a in kept], one, name="fold")


def _log_sum_exp(low: Lowering, node: onnx_ir.Node, axes: tuple[int, ...]) -> None:
    kept = [a for a in range(len(low.shape(node.inputs[0]))) if a not in axes]

    def whole(x: Expr) -> Expr:
        top = _fold(x, axes, largest, _same)
        shifted = te.compute(
            x.shape, lambda *i: exp(x(*i) - top(*(i[a] for a in kept))), name="shifted"
        )
        total = _fold(shifted, axes, _total, _same)
        return te.compute(total.shape, lambda *i: tirx.log(total(*i)) + top(*i), name="end")

    x = low.te(whole, low.tensor(node.inputs[0]), name="log_sum_exp")
    low.define(node.outputs[0], low.reshaped(x, low.shape(node.outputs[0])))


def _axes(low: Lowering, node: onnx_ir.Node, rank: int) -> tuple[int, ...]:
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is not None:
        found = [int(a) for a in low.required(value, "axes").reshape(-1)]
    else:
        found = [int(a) for a in ints(node, "axes", ())]
    if not found and attribute_int(node, "noop_with_empty_axes", 0) == 0:
        return tuple(range(rank))
    return tuple(sorted(a % rank for a in found))


@emits("ArgMax", "ArgMin")
def emit_arg(low: Lowering, node: onnx_ir.Node) -> None:
    """Return where an axis has its largest or smallest element; of equal ones the first, or the last."""
    shape = low.shape(node.inputs[0])
    axis = attribute_int(node, "axis", 0) % len(shape)
    last = attribute_int(node, "select_last_index", 0) != 0
    top = node.op_type == "ArgMax"
    size = shape[axis]

    def found(x: Expr) -> Expr:
        extreme = _fold(x, (axis,), largest if top else smallest, _same)
        k = te.reduce_axis((0, size), "k")

        def one(*i: Expr) -> Expr:
            here = x(*i[:axis], k, *i[axis:]) == extreme(*i)
            number = tirx.Cast("int64", k)
            if last:
                return te.max(tirx.Select(here, number, tirx.const(-1, "int64")), axis=k)
            return te.min(tirx.Select(here, number, tirx.const(size, "int64")), axis=k)

        return te.compute(extreme.shape, one, name="place")

    x = low.te(found, low.tensor(node.inputs[0]), name=node.op_type.lower())
    low.define(node.outputs[0], low.reshaped(x, low.shape(node.outputs[0])))


@emits("CumSum", note="a fixed axis")
def emit_cumsum(low: Lowering, node: onnx_ir.Node) -> None:
    """Add up what comes before along an axis."""
    shape, dtype = low.shape(node.inputs[0]), low.dtype(node.inputs[0])
    axis = int(low.required(node.inputs[1], "the axis").item()) % len(shape)
    own = attribute_int(node, "exclusive", 0) == 0
    back = attribute_int(node, "reverse", 0) != 0

    def summed(x: Expr) -> Expr:
        k = te.reduce_axis((0, shape[axis]), "k")

        def one(*i: Expr) -> Expr:
            a, b = (i[axis], k) if back else (k, i[axis])
            counted = a <= b if own else a < b
            value = tirx.Select(counted, x(*i[:axis], k, *i[axis + 1 :]), tirx.const(0, dtype))
            return te.sum(value, axis=k)

        return te.compute(shape, one, name="cumsum")

    low.define(node.outputs[0], low.te(summed, low.tensor(node.inputs[0]), name="cumsum"))
