"""Operators that map every element by itself: activations, Q and DQ, casts."""

import numpy as np
import onnx_ir

from whet.backends.c.activations import UNARY, activation
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, read_grid, sink
from whet.backends.c.program import Grid, Parameter, Tensor
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type, floating
from whet.backends.c.tables import tabulate
from whet.ir.values import attribute_int

__all__ = ["emit_cast", "emit_dequantize", "emit_quantize", "emit_unary"]


@emits(*UNARY, "Clip", note="float32, or on a grid; Clip takes fixed limits")
def emit_unary(low: Lowering, node: onnx_ir.Node) -> None:
    """Map each element; on a grid of 8 bits with a QuantizeLinear behind, look it up."""
    steps = activation(low, node)
    if steps is None:
        raise Decline(
            "its limits must be constant"
            if node.op_type == "Clip"
            else f"{low.dtype(node.outputs[0])} elements, only float32 is supported"
        )
    _map(low, node, steps)


def _map(low: Lowering, node: onnx_ir.Node, steps: list[str]) -> None:
    layout = low.layout(node.inputs[0])
    form = low.form(node.inputs[0])
    if form.grid is not None and tabulate(low, node, form.grid, layout):
        return
    x = operand(low, "x", node.inputs[0], layout)
    y = sink(low, node, layout)
    body = "\n".join(
        [
            f"for (int i = 0; i < {x.tensor.size}; ++i) {{",
            f"float v = {x.at('i')};",
            *steps,
            y.lines("i"),
            "}",
        ]
    )
    low.call(node.op_type.lower(), [*x.parameters, *y.parameters], body, in_place=[x.tensor])
    y.finish()


@emits("QuantizeLinear", note="one fixed scale, integers of 8 or 16 bits")
def emit_quantize(low: Lowering, node: onnx_ir.Node) -> None:
    """Round to a grid; integers that are on it already are taken as they are."""
    grid = read_grid(low, node)
    if grid is None:
        raise Decline("only one fixed scale per tensor and integers of 8 or 16 bits are supported")
    form = low.form(node.inputs[0])
    layout = low.layout(node.inputs[0])
    if form.grid == grid:
        low.define(node.outputs[0], low.laid_out(form, layout), layout)
        return
    x = operand(low, "x", node.inputs[0], layout)
    result = low.make(x.tensor.shape, grid.dtype)
    y = [pointer("y", result, written=True), *_grid_parameters(grid)]
    first, last = (floating(n - grid.zero) for n in grid.limits)
    zero = " + y_zero" if grid.zero else ""
    body = f"""
    for (int i = 0; i < {x.tensor.size}; ++i) {{
    const float v = {x.at("i")};
    y[i] = ({c_type(grid.dtype)})(nearest(v / y_scale, {first}, {last}){zero});
    }}
    """
    low.call("quantize", [*x.parameters, *y], body, in_place=[x.tensor])
    low.define(node.outputs[0], result, layout)


def _grid_parameters(grid: Grid) -> list[Parameter]:
    found = [Parameter("const float y_scale", floating(grid.scale))]
    return [*found, Parameter("const int y_zero", str(grid.zero))] if grid.zero else found


@emits(
    "DequantizeLinear", note="one fixed scale, integers of 8 or 16 bits; weights also per channel"
)
def emit_dequantize(low: Lowering, node: onnx_ir.Node) -> None:
    """Keep the integers: whoever reads them reads real numbers."""
    grid = read_grid(low, node)
    if grid is None:
        raise Decline("activations need one fixed scale per tensor and integers of 8 or 16 bits")
    layout = low.layout(node.inputs[0])
    low.define(node.outputs[0], low.tensor(node.inputs[0], layout), layout, grid)


@emits("Cast", "CastLike", note="between float32, integers and truth values")
def emit_cast(low: Lowering, node: onnx_ir.Node) -> None:
    """Convert each element as C does: towards zero."""
    layout = low.layout(node.inputs[0])
    form = low.form(node.inputs[0])
    target = low.dtype(node.outputs[0])
    tensor = low.laid_out(form, layout)
    if form.grid is None and tensor.dtype == target:
        low.share(node.outputs[0], form)
        return
    if attribute_int(node, "to", 1) == 8 or target.kind not in "fiub":
        raise Decline(f"casts to {target} are not supported")
    result = low.make(tensor.shape, target)
    if form.grid is not None:
        x = operand(low, "x", node.inputs[0], layout)
        parameters, read = x.parameters, x.at("i")
    else:
        parameters, read = [pointer("x", tensor)], "x[i]"
    body = f"for (int i = 0; i < {tensor.size}; ++i) {{\ny[i] = {_converted(read, tensor, form.grid, result)};\n}}"
    low.call("cast", [*parameters, pointer("y", result, written=True)], body, in_place=[tensor])
    low.define(node.outputs[0], result, layout)


def _converted(read: str, tensor: Tensor, grid: Grid | None, result: Tensor) -> str:
    if result.dtype == np.bool_:
        real = grid is not None or tensor.dtype.kind == "f"
        return f"(uint8_t)({read} != {'0.0f' if real else '0'})"
    return f"({c_type(result.dtype)})({read})"
