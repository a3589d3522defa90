"""Tell whether a mask may hide all keys of a query, where kernels disagree on the result."""

import math

import numpy as np
import onnx_ir

from whet.ir.values import Array, constant, is_constant

__all__ = ["may_hide_rows"]

_ABSORBING = -1e30
"""From here on, what is added to a score may leave nothing of it."""
_CARRIERS = frozenset(
    {
        "Add", "Cast", "CastLike", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather",
        "GatherElements", "GatherND", "Identity", "Max", "Mean", "Min", "Mul", "Neg", "Pad", "Reshape",
        "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Sub", "Sum", "Tile", "Transpose",
        "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
_ENDLESS = frozenset({"Div", "If", "Loop", "Log", "Reciprocal", "Scan"})
"""What may make infinities out of ordinary numbers, or anything at all."""


def may_hide_rows(mask: onnx_ir.Value, *, causal: bool) -> bool:
    """Tell whether some query may see no key at all; only what is certain counts as no.

    A constant is looked at. A computed mask of numbers hides keys if a constant near the lowest number, a logarithm or
    an input of the model gets into it by arithmetic that carries it; products of activations, distances and the like
    do not.
    """
    array = constant(mask)
    if array is not None:
        return _hides(array, causal)
    if mask.dtype is None or not mask.dtype.is_floating_point():
        return True
    return any(_brings_lowest(value) for value in _carried(mask))


def _hides(array: Array, causal: bool) -> bool:
    seen = array if array.dtype.kind == "b" else np.greater(array, _ABSORBING)
    if causal or seen.ndim == 0:
        return not bool(np.all(seen[..., :1]))
    return not bool(np.all(np.any(seen, axis=-1)))


def _carried(mask: onnx_ir.Value) -> list[onnx_ir.Value]:
    """Return the values at which the arithmetic of the mask begins."""
    ends: list[onnx_ir.Value] = []
    waiting, known = [mask], {mask}
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or is_constant(value) or not _carries(node):
            ends.append(value)
        if node is None or not _carries(node):
            continue
        if node.op_type == "ConstantOfShape":
            ends.append(value)
        for operand in node.inputs:
            if operand is not None and operand not in known:
                known.add(operand)
                waiting.append(operand)
    return ends


def _carries(node: onnx_ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in _CARRIERS:
        return False
    if node.op_type == "Mul":
        return any(is_constant(operand) for operand in node.inputs)
    return node.op_type != "Div" or is_constant(node.inputs[1])


def _brings_lowest(value: onnx_ir.Value) -> bool:
    """Tell whether a value at which arithmetic begins may be absorbing."""
    array = constant(value)
    if array is not None:
        return array.dtype.kind == "f" and bool(np.any(~(np.abs(array) < -_ABSORBING)))
    node = value.producer()
    if node is None:
        return value.dtype is None or value.dtype.is_floating_point()
    if node.op_type == "ConstantOfShape":
        filling = node.attributes.get("value")
        return filling is not None and not _is_small(filling.as_tensor().numpy())
    return node.domain not in ("", "ai.onnx") or node.op_type in _ENDLESS


def _is_small(array: Array) -> bool:
    return array.dtype.kind != "f" or all(
        math.isfinite(float(x)) and abs(float(x)) < -_ABSORBING for x in array.reshape(-1)
    )
