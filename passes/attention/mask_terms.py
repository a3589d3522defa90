"""Make one additive mask of what masks the scores."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, constant, is_constant, is_op
from whet.passes.attention.masks import ABSORBS
from whet.passes.attention.products import scalar
from whet.passes.attention.scores import Term
from whet.passes.proposal import Builder

__all__ = ["bounded", "element_type", "term_value"]

_LOWEST = -1e38
_DEPTH = 6
_MOVES = ("Add", "Expand", "Unsqueeze", "Squeeze", "Reshape", "Slice", "Identity", "Transpose")


def term_value(term: Term, near: onnx_ir.Node, build: Builder) -> onnx_ir.Value:
    """Return what a term adds to the scores; declines a fill where the type has none that absorbs them."""
    dtype = element_type(near)
    if term.fill is not None:
        if math.isfinite(term.fill) and not _wide(dtype):
            raise Mismatch(
                f"no number of {dtype.name} absorbs the scores that {term.fill:g} replaces"
            )
        fill = ABSORBS if math.isfinite(term.fill) else term.fill
        number, zero = (build.constant(np.asarray(n, dtype)) for n in (fill, 0.0))
        branches = (zero, number) if term.shown else (number, zero)
        return build.op("Where", term.value, *branches)
    if term.factor == 1.0:
        return term.value
    if term.factor == -1.0:
        return build.op("Neg", term.value)
    return build.op("Mul", term.value, build.constant(np.asarray(term.factor, dtype)))


def element_type(node: onnx_ir.Node) -> np.dtype[np.generic]:
    """Return the type of the node's result."""
    dtype = node.outputs[0].dtype
    assert dtype is not None
    return np.dtype(dtype.numpy())


def _wide(dtype: np.dtype[np.generic]) -> bool:
    return dtype.name in {"float32", "float64", "bfloat16"}


def bounded(
    value: onnx_ir.Value, build: Builder, seen: list[onnx_ir.Node], depth: int = _DEPTH
) -> onnx_ir.Value:
    """Return the mask with every constant near the lowest float32 in it replaced by :data:`ABSORBS`.

    The nodes that were made anew for that are noted in ``seen``, readers first.
    """
    if value.dtype not in (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE) or depth == 0:
        return value
    if is_constant(value):
        return _bounded_constant(value, build)
    node = value.producer()
    if node is None or len(node.outputs) != 1:
        return value
    if is_op(node, "Where"):
        return _rebuilt(node, (1, 2), build, seen, depth)
    if is_op(node, "Mul") and any(scalar(v) is not None for v in node.inputs):
        return _rebuilt(node, (0, 1), build, seen, 2) if _scales_zero_or_one(node) else value
    return _rebuilt(node, _data(node), build, seen, depth) if is_op(node, *_MOVES) else value


def _data(node: onnx_ir.Node) -> Sequence[int]:
    return (0, 1) if node.op_type == "Add" else (0,)


def _scales_zero_or_one(node: onnx_ir.Node) -> bool:
    """Tell whether a constant is multiplied with ``1 - mask`` or with a cast boolean."""
    data = next((v for v in node.inputs if v is not None and not is_constant(v)), None)
    maker = None if data is None else data.producer()
    if maker is not None and is_op(maker, "Sub") and scalar(maker.inputs[0]) == 1.0:
        return True
    return is_op(maker, "Cast")


def _rebuilt(
    node: onnx_ir.Node,
    places: Sequence[int],
    build: Builder,
    seen: list[onnx_ir.Node],
    depth: int,
) -> onnx_ir.Value:
    """Return the node's value with the given inputs bounded; the old one if that changes nothing."""
    inputs = list(node.inputs)
    above: list[onnx_ir.Node] = []
    for place in places:
        before = inputs[place]
        if before is not None:
            inputs[place] = bounded(before, build, above, depth - 1)
    if inputs == list(node.inputs):
        return node.outputs[0]
    seen += [node, *above]
    return build.op(node.op_type, *inputs, attributes=dict(node.attributes))


def _bounded_constant(value: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
    array = constant(value)
    if array is None or not _reaches(array):
        return value
    low = np.isfinite(array) & (array.astype(np.float64) <= _LOWEST)
    return build.constant(np.where(low, np.asarray(ABSORBS, array.dtype), array), value.name or "")


def _reaches(array: Array) -> bool:
    finite = array[np.isfinite(array)]
    return bool(finite.size) and float(finite.min()) <= _LOWEST
