"""Sums, means and extremes along axes; ArgMax and ArgMin."""

import dataclasses
import math

import numpy as np
import onnx_ir

from whet.backends.c.copying import row_major, terms
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, sink
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type
from whet.backends.layouts import LAST, PLAIN, to_last
from whet.ir.values import attribute_int, attribute_ints

__all__ = ["emit_arg", "emit_reduce"]


@dataclasses.dataclass(frozen=True)
class _Kind:
    begin: str
    add: str
    finish: str = "a"


_KINDS = {
    "ReduceSum": _Kind("0.0f", "a += u;"),
    "ReduceMean": _Kind("0.0f", "a += u;", "a / {count}.0f"),
    "ReduceMax": _Kind("-INFINITY", "a = u > a ? u : a;"),
    "ReduceMin": _Kind("INFINITY", "a = u < a ? u : a;"),
    "ReduceProd": _Kind("1.0f", "a *= u;"),
    "ReduceL1": _Kind("0.0f", "a += fabsf(u);"),
    "ReduceL2": _Kind("0.0f", "a += u * u;", "sqrtf(a)"),
    "ReduceSumSquare": _Kind("0.0f", "a += u * u;"),
    "ReduceLogSum": _Kind("0.0f", "a += u;", "logf(a)"),
}


@emits(*_KINDS, note="float32 or on a grid, fixed axes")
def emit_reduce(low: Lowering, node: onnx_ir.Node) -> None:
    """Combine elements along axes."""
    value = node.inputs[0]
    assert value is not None
    shape = low.shape(value)
    axes = _axes(low, node, len(shape))
    kind = _KINDS[node.op_type]
    keep = attribute_int(node, "keepdims", 1)
    layout = (
        low.layout(value)
        if len(shape) > 2 and (keep or set(axes) >= set(range(2, len(shape))))
        else PLAIN
    )
    x = operand(low, "x", value, layout)
    own = [to_last(len(shape)).index(a) for a in axes] if layout == LAST else axes
    strides = row_major(x.tensor.shape)
    kept = [k for k in range(len(shape)) if k not in own]
    out_layout = LAST if layout == LAST and keep else PLAIN
    y = sink(low, node, out_layout)
    names = [f"i{k}" for k in range(len(shape))]
    sizes = [x.tensor.shape[k] for k in kept]
    out = terms(row_major(sizes), [names[k] for k in kept])
    source = terms(strides, names)
    outer = "\n".join(f"for (int i{k} = 0; i{k} < {x.tensor.shape[k]}; ++i{k}) {{" for k in kept)
    inner = "\n".join(f"for (int i{k} = 0; i{k} < {x.tensor.shape[k]}; ++i{k}) {{" for k in own)
    count = math.prod(x.tensor.shape[k] for k in own)
    body = f"""
    {outer}
    float a = {kind.begin};
    {inner}
    const float u = {x.at(source)};
    {kind.add}
    {_closing(len(own))}
    float v = {kind.finish.format(count=count)};
    {y.lines(out)}
    {_closing(len(kept))}
    """
    if not kept:
        body = "{\n" + body + "\n}"
    low.call(node.op_type.lower(), [*x.parameters, *y.parameters], body)
    y.finish()


def _axes(low: Lowering, node: onnx_ir.Node, rank: int) -> list[int]:
    given = attribute_ints(node, "axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = tuple(int(a) for a in low.required(node.inputs[1], "axes").reshape(-1))
    if not given and attribute_int(node, "noop_with_empty_axes", 0):
        raise Decline("no axes and noop_with_empty_axes")
    return sorted({a % rank for a in given}) if given else list(range(rank))


def _closing(count: int) -> str:
    return "\n".join("}" for _ in range(count))


@emits("ArgMax", "ArgMin", note="the first of equal ones, or the last")
def emit_arg(low: Lowering, node: onnx_ir.Node) -> None:
    """Return the index of the largest or smallest element along an axis."""
    form = low.form(node.inputs[0])
    x = low.laid_out(form, PLAIN)
    axis = attribute_int(node, "axis", 0) % form.rank
    outer, size = math.prod(form.shape[:axis]), form.shape[axis]
    inner = math.prod(form.shape[axis + 1 :])
    sign = ">" if node.op_type == "ArgMax" else "<"
    sign += "=" if attribute_int(node, "select_last_index", 0) else ""
    result = low.make(low.shape(node.outputs[0]), np.dtype(np.int64))
    body = f"""
    for (int o = 0; o < {outer}; ++o) {{
    for (int i = 0; i < {inner}; ++i) {{
    const {c_type(x.dtype)} *row = x + o * {size * inner} + i;
    int best = 0;
    for (int k = 1; k < {size}; ++k) {{
    best = row[k * {inner}] {sign} row[best * {inner}] ? k : best;
    }}
    y[o * {inner} + i] = best;
    }}
    }}
    """
    low.call(node.op_type.lower(), [pointer("x", x), pointer("y", result, written=True)], body)
    low.define(node.outputs[0], result)
