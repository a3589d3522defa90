"""MaxPool, AveragePool and the global ones."""

import numpy as np
import onnx_ir

from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, sink
from whet.backends.c.program import Grid
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type, floating, integer
from whet.backends.c.windows import Window, read_window
from whet.backends.layouts import LAST
from whet.ir.values import attribute_int, attribute_ints

__all__ = ["emit_average_pool", "emit_max_pool"]


@emits("MaxPool", "GlobalMaxPool", note="1 and 2 directions in space, without indices")
def emit_max_pool(low: Lowering, node: onnx_ir.Node) -> None:
    """Take the largest element; on a grid that is the largest integer, which stays on the grid."""
    if len(node.outputs) > 1 and any(
        v.name for v in node.outputs[1:] if v.uses() or v.is_graph_output()
    ):
        raise Decline("the indices of the largest elements are not supported")
    window = _window(low, node)
    form = low.form(node.inputs[0])
    x = low.tensor(node.inputs[0], LAST)
    shape = low.shape(node.outputs[0])
    result = low.make((shape[0], *shape[2:], shape[1]), x.dtype)
    kind = c_type(x.dtype)
    least = floating(-np.inf) if x.dtype.kind == "f" else integer(Grid(1.0, 0, x.dtype).limits[0])
    channels = window.channels
    body = f"""
    {window.opening}
    {kind} *out = y + {window.pixel} * {channels};
    for (int c = 0; c < {channels}; ++c) {{
    out[c] = {least};
    }}
    {window.rows.each("ky")}
    {window.columns.each("kx")}
    const {kind} *row = x + {window.at("ky", "kx")} * {channels};
    for (int c = 0; c < {channels}; ++c) {{
    out[c] = row[c] > out[c] ? row[c] : out[c];
    }}
    }}
    }}
    }}
    }}
    }}
    """
    low.call("max_pool", [pointer("x", x), pointer("y", result, written=True)], body)
    low.define(node.outputs[0], result, LAST, form.grid)


@emits("AveragePool", "GlobalAveragePool", note="1 and 2 directions in space")
def emit_average_pool(low: Lowering, node: onnx_ir.Node) -> None:
    """Take the mean; integers of a grid are summed as integers."""
    window = _window(low, node)
    x = operand(low, "x", node.inputs[0], LAST)
    y = sink(low, node, LAST)
    exact = x.grid is not None
    value = (
        f"(float)a[j]{' * x_scale' if exact else ''} / (float)count"
        if exact
        else "a[j] / (float)count"
    )
    read = x.codes("row") if exact else "row"
    channels = window.channels
    block = next(n for n in range(min(channels, 16), 0, -1) if channels % n == 0)
    body = f"""
    {window.opening}
    {_count(node, window)}
    for (int c = 0; c < {channels}; c += {block}) {{
    {"int32_t" if exact else "float"} a[{block}] = {{0}};
    {window.rows.each("ky")}
    {window.columns.each("kx")}
    const {c_type(x.tensor.dtype)} *row = x + {window.at("ky", "kx")} * {channels} + c;
    for (int j = 0; j < {block}; ++j) {{
    a[j] += {read.replace("x[row]", "row[j]") if exact else "row[j]"};
    }}
    }}
    }}
    for (int j = 0; j < {block}; ++j) {{
    float v = {value};
    {y.lines(f"{window.pixel} * {channels} + c + j")}
    }}
    }}
    }}
    }}
    }}
    """
    low.call("average_pool", [*x.parameters, *y.parameters], body)
    y.finish()


def _window(low: Lowering, node: onnx_ir.Node) -> Window:
    value = node.inputs[0]
    assert value is not None
    shape, result = low.shape(value), low.shape(node.outputs[0])
    kernel = (
        shape[2:] if node.op_type.startswith("Global") else attribute_ints(node, "kernel_shape")
    )
    if kernel is None:
        raise Decline("it has no kernel_shape")
    if len(low.form(value).shape) not in (3, 4):
        raise Decline(f"{len(shape) - 2} directions in space, only 1 and 2 are supported")
    return read_window(node, shape, result, kernel)


def _count(node: onnx_ir.Node, window: Window) -> str:
    """Return the declaration of how many elements the mean is over."""
    rows, columns = window.rows, window.columns
    if rows.bare and columns.bare:
        return f"const int count = {rows.kernel * columns.kernel};"
    if not attribute_int(node, "count_include_pad", 0):
        return f"const int count = {rows.count('ky')} * {columns.count('kx')};"
    ends = (attribute_ints(node, "pads") or (0, 0, 0, 0))[
        -len(node.attributes["kernel_shape"].as_ints()) :
    ]
    behind = (0, *ends) if len(ends) == 1 else ends
    lines: list[str] = []
    for name, axis, end, start in zip(
        ("tall", "wide"), (rows, columns), behind, ("top", "left"), strict=True
    ):
        lines += [
            f"int {name} = {axis.kernel};",
            _shortened(name, axis.dilation, axis.size + end, start),
        ]
    return "\n".join([*lines, "const int count = tall * wide;"])


def _shortened(name: str, dilation: int, end: int, start: str) -> str:
    """Return the loop that takes off taps behind the pads, which only ceil_mode has."""
    return f"while ({name} > 1 && {start} + ({name} - 1) * {dilation} >= {end}) {{\n--{name};\n}}"
