"""Grids that follow the data: DynamicQuantizeLinear and MatMulInteger."""

import dataclasses
import math

import numpy as np
import onnx_ir

from whet.backends.c.convolving import Layer, dot_products
from whet.backends.c.epilogue import Epilogue
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type
from whet.backends.c.weights import narrowed
from whet.backends.c.windows import Axis, Window

__all__ = ["emit_dynamic_quantize", "emit_matmul_integer"]


@emits("DynamicQuantizeLinear")
def emit_dynamic_quantize(low: Lowering, node: onnx_ir.Node) -> None:
    """Find the range of all elements, zero included, and round to 256 steps over it."""
    low.integers = True
    x = operand(low, "x", node.inputs[0])
    y = low.make(x.tensor.shape, np.dtype(np.uint8))
    scale = low.make(low.shape(node.outputs[1]), np.dtype(np.float32))
    zero = low.make(low.shape(node.outputs[2]), np.dtype(np.uint8))
    body = f"""
    float least = 0.0f;
    float most = 0.0f;
    for (int i = 0; i < {x.tensor.size}; ++i) {{
    const float v = {x.at("i")};
    least = v < least ? v : least;
    most = v > most ? v : most;
    }}
    const float step = most > least ? (most - least) / 255.0f : 1.0f;
    const int z = nearest(0.0f - least / step, 0.0f, 255.0f);
    for (int i = 0; i < {x.tensor.size}; ++i) {{
    y[i] = (uint8_t)(nearest({x.at("i")} / step, (float)-z, (float)(255 - z)) + z);
    }}
    scale[0] = step;
    zero[0] = (uint8_t)z;
    """
    written = [pointer(n, t, written=True) for n, t in (("y", y), ("scale", scale), ("zero", zero))]
    low.call("quantize_dynamic", [*x.parameters, *written], body)
    for value, tensor in zip(node.outputs, (y, scale, zero), strict=True):
        low.define(value, tensor)


@dataclasses.dataclass(frozen=True)
class _Sums(Epilogue):
    """Keep the sums as they are."""

    def lines(self, acc: str, c: str, index: str) -> str:
        """Return the statement."""
        del c
        return f"y[{index}] = {acc};"


@emits(
    "MatMulInteger", note="a constant matrix; the zero point of the other operand may be computed"
)
def emit_matmul_integer(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply integers with a constant matrix; sums have 32 bits."""
    given = (*node.inputs, None, None)
    matrix = low.required(node.inputs[1], "the second operand").astype(np.int32)
    if given[3] is not None:
        matrix = matrix - low.required(given[3], "its zero point").astype(np.int32)
    if matrix.ndim != 2:
        raise Decline(f"the second operand has {matrix.ndim} axes, expected 2")
    inputs, outputs = matrix.shape
    if 255 * int(np.abs(matrix).sum(0).max(initial=0)) >= 2**31:
        raise Decline("sums of products can leave 32 bits")
    x = low.tensor(node.inputs[0])
    rows = x.size // inputs
    result = low.make(low.shape(node.outputs[0]), np.dtype(np.int32))
    weights = low.constant(narrowed(matrix.T), f"weights of {node.outputs[0].name}")
    parameters = [pointer("x", x), pointer("w", weights)]
    read = "{0}"
    if given[2] is not None:
        zero = low.tensor(given[2])
        if math.prod(zero.shape) != 1:
            raise Decline("only one zero point for the whole first operand is supported")
        parameters.append(pointer("zero", zero))
        read = "{0} - zero[0]"
    one = Axis(1, 1, 1, 1, 1, 0)
    window = Window(1, one, Axis(rows, rows, 1, 1, 1, 0), inputs)
    epilogue = _Sums((), "", "")
    layer = Layer(window, 1, outputs, read, c_type(x.dtype), c_type(weights.dtype), "0", epilogue)
    parameters.append(pointer("y", result, written=True))
    low.call("multiply_integers", parameters, dot_products(layer))
    low.define(node.outputs[0], result)
