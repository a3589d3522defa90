"""Convolutions and products with constant weights, whatever their numbers are: chooses the kernel and its constants."""

import dataclasses

import numpy as np
import onnx_ir

from whet.backends.c.convolving import Layer, depthwise, dot_products, side_by_side
from whet.backends.c.epilogue import Epilogue, make_epilogue
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import Operand, Sink
from whet.backends.c.program import Grid, Parameter, Tensor
from whet.backends.c.registry import Decline
from whet.backends.c.spelling import c_type
from whet.backends.c.weights import Weights, quantized
from whet.backends.c.windows import Window
from whet.ir.array import Array

__all__ = ["Bias", "emit_layer", "read_bias"]

_LARGEST = 2**31 - 1
_SAME = 1e-5
"""Relative difference of scales that are one number, computed in two orders."""


@dataclasses.dataclass(frozen=True)
class Bias:
    """One number for each output; ``codes`` are the integers that a DequantizeLinear makes it of."""

    array: Array
    codes: Array | None = None
    scale: Array | None = None


def read_bias(low: Lowering, value: onnx_ir.Value | None, count: int) -> Bias | None:
    """Return a constant bias; raises Decline."""
    if value is None:
        return None
    array = low.required(value, "the bias").reshape(-1)
    array = np.ascontiguousarray(np.broadcast_to(array, (count,)), np.float32)
    found = quantized(low, value)
    if found is None or found.integers.size != count:
        return Bias(array)
    scale = np.broadcast_to(found.scale.reshape(-1), (count,))
    return Bias(array, found.integers.reshape(-1), scale)


@dataclasses.dataclass
class _Plan:
    """What differs between kinds of numbers."""

    parameters: list[Parameter]
    epilogue: Epilogue
    begin: str
    read: str
    integers: bool


def emit_layer(
    low: Lowering,
    hint: str,
    x: Operand,
    window: Window,
    groups: int,
    weights: Weights | Tensor,
    bias: Bias | None,
    sink: Sink,
) -> None:
    """Emit ``y = act(x * w + b)`` with weights ``[outputs, depth, rows, columns]``, constant or a float tensor."""
    shape = weights.shape if isinstance(weights, Tensor) else weights.array.shape
    outputs, depth = shape[0], shape[1]
    single = groups > 1 and depth == 1 and outputs == groups
    label = sink.value.name or hint
    plan = _integer_plan(low, x, weights, bias, sink, label)
    if plan is None:
        plan = _float_plan(low, x, weights, bias, sink, label)
    stored = _stored(low, weights, groups, single, plan.integers, label)
    layer = Layer(
        window, groups, outputs, plan.read, c_type(x.tensor.dtype), c_type(stored.dtype),
        plan.begin, plan.epilogue,
    )  # fmt: skip
    if single:
        body = depthwise(layer, "int32_t" if plan.integers else "float")
    else:
        body = dot_products(layer) if plan.integers else side_by_side(layer)
    parameters = [*plan.parameters, pointer("w", stored), *plan.epilogue.parameters]
    low.call(hint, parameters, body)
    sink.finish()


def _integer_plan(
    low: Lowering, x: Operand, weights: Weights | Tensor, bias: Bias | None, sink: Sink, label: str
) -> _Plan | None:
    """Return a plan in integers if both operands are on grids and no sum can leave 32 bits."""
    if x.grid is None or isinstance(weights, Tensor) or weights.scale is None:
        return None
    scale = (np.float64(x.grid.scale) * weights.scale.astype(np.float64)).astype(np.float32)
    codes = None
    if (
        bias is not None
        and bias.scale is not None
        and np.allclose(bias.scale, scale, rtol=_SAME, atol=0)
    ):
        codes = bias.codes
    if _largest(x.grid, weights.array, codes) > _LARGEST:
        return None
    parameters = [pointer("x", x.tensor)]
    read = "{0}"
    if x.grid.zero:
        parameters.append(Parameter("const int x_zero", str(x.grid.zero)))
        read = "{0} - x_zero"
    begin = "0"
    if codes is not None and codes.any():
        parameters.append(
            pointer("begin", low.constant(codes.astype(np.int32), f"bias of {label}"))
        )
        begin = "begin[{c}]"
    rest = None if bias is None or codes is not None else bias.array
    epilogue = make_epilogue(low, sink, scale, rest, label=label)
    return _Plan(parameters, epilogue, begin, read, True)


def _largest(grid: Grid, weights: Array, bias: Array | None) -> int:
    """Return a bound on every sum on the way: the largest operand times the sum of all weights."""
    first, last = grid.limits
    operand = max(grid.zero - first, last - grid.zero)
    total = np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(1) * operand
    return int((total + (0 if bias is None else np.abs(bias.astype(np.int64)))).max(initial=0))


def _float_plan(
    low: Lowering, x: Operand, weights: Weights | Tensor, bias: Bias | None, sink: Sink, label: str
) -> _Plan:
    """Return a plan with sums of floats; integer weights stay integers, their scale follows."""
    scale = None if isinstance(weights, Tensor) else weights.scale
    if scale is None and not isinstance(weights, Tensor) and weights.array.dtype != np.float32:
        raise Decline(
            f"the weights are {weights.array.dtype}, expected float32 or integers of a grid"
        )
    array = None if bias is None else bias.array
    parameters, begin = x.parameters, "0.0f"
    if scale is None and array is not None and array.any():
        parameters.append(pointer("begin", low.constant(array, f"bias of {label}")))
        begin = "begin[{c}]"
    epilogue = make_epilogue(low, sink, scale, array, label=label)
    return _Plan(parameters, epilogue, begin, x.at("?").replace("x[?]", "{0}"), False)


def _stored(
    low: Lowering, weights: Weights | Tensor, groups: int, single: bool, integers: bool, label: str
) -> Tensor:
    """Return the weights in the order in which the kernel reads them."""
    if isinstance(weights, Tensor):
        outputs, depth, rows, columns = weights.shape
        if single:
            return low.transposed(weights, (2, 3, 0, 1))
        grouped = weights.reshaped((groups, outputs // groups, depth, rows, columns))
        return low.transposed(grouped, (0, 3, 4, 2, 1))
    array = weights.array
    outputs, depth, rows, columns = array.shape
    if single:
        return low.constant(array.transpose(2, 3, 0, 1), f"weights of {label}")
    if integers:
        return low.constant(array.transpose(0, 2, 3, 1), f"weights of {label}")
    parts = array.reshape(groups, outputs // groups, depth, rows, columns)
    return low.constant(parts.transpose(0, 3, 4, 2, 1), f"weights of {label}")
