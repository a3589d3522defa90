"""Conv."""

import onnx_ir

from whet.backends.c.layers import emit_layer, read_bias
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, sink
from whet.backends.c.program import Tensor
from whet.backends.c.registry import Decline, emits
from whet.backends.c.weights import Weights, read_weights
from whet.backends.c.windows import read_window
from whet.backends.layouts import LAST
from whet.ir.values import attribute_int

__all__ = ["emit_conv"]


@emits(
    "Conv",
    note="1 and 2 directions in space; int8 with one grid for the input, weights per channel",
)
def emit_conv(low: Lowering, node: onnx_ir.Node) -> None:
    """Convolve with channels last; in integers where input and weights are on grids."""
    shape, result = low.shape(_input(node, 0)), low.shape(node.outputs[0])
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    weights: Weights | Tensor | None = read_weights(low, node.inputs[1], 0)
    if weights is None:
        found = low.form(node.inputs[1])
        if found.grid is not None:
            raise Decline("weights on a grid must be constant")
        weights = low.tensor(node.inputs[1])
    kernel = low.shape(_input(node, 1))
    window = read_window(node, shape, result, kernel[2:])
    bias = read_bias(low, bias_value, kernel[0])
    flat = (*kernel[:2], *((1,) if len(kernel) == 3 else ()), *kernel[2:])
    if isinstance(weights, Tensor):
        weights = weights.reshaped(flat)
    else:
        weights = Weights(weights.array.reshape(flat), weights.scale)
    x = operand(low, "x", node.inputs[0], LAST)
    y = sink(low, node, LAST)
    emit_layer(low, "conv", x, window, attribute_int(node, "group", 1), weights, bias, y)


def _input(node: onnx_ir.Node, number: int) -> onnx_ir.Value:
    value = node.inputs[number]
    assert value is not None
    return value
