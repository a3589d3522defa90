"""What Q/DQ mean: a grid that values are rounded to, read from the nodes and written as expressions."""

import dataclasses

import numpy as np
import onnx_ir

from whet.backends.tvm.api import Expr, tirx
from whet.backends.tvm.lowering import Lowering
from whet.ir.array import Array
from whet.ir.values import attribute_int, is_op

__all__ = ["Codes", "Grid", "codes_of", "grid_of", "source_of"]

_BYTES = ("int8", "uint8")


@dataclasses.dataclass(frozen=True)
class Grid:
    """Numbers ``scale (code - zero)`` with one scale for all of a tensor."""

    scale: float
    zero: int
    dtype: str

    def decode(self, code: Expr) -> Expr:
        """Return the number that a code stands for."""
        steps = tirx.Cast("int32", code) - self.zero
        return tirx.Cast("float32", steps) * tirx.FloatImm("float32", self.scale)

    def encode(self, value: Expr) -> Expr:
        """Return the nearest code, of two the even step, within the limits of the type."""
        limits = np.iinfo(self.dtype)
        steps = value * tirx.FloatImm("float32", 1.0 / self.scale)
        low = tirx.FloatImm("float32", float(limits.min - self.zero))
        high = tirx.FloatImm("float32", float(limits.max - self.zero))
        bounded = tirx.nearbyint(tirx.max(tirx.min(steps, high), low))
        return tirx.Cast(self.dtype, tirx.Cast("int32", bounded) + self.zero)


@dataclasses.dataclass(frozen=True)
class Codes:
    """A constant as signed integers of 8 bits, with a scale for each slice of an axis."""

    values: Array
    scales: Array
    """One, or one for each slice."""
    axis: int


def grid_of(low: Lowering, node: onnx_ir.Node) -> Grid | None:
    """Return the one grid of a QuantizeLinear or DequantizeLinear; None where there are several, or it is computed."""
    scale = low.known(node.inputs[1])
    zero_value = node.inputs[2] if len(node.inputs) > 2 else None
    zero = low.known(zero_value)
    if scale is None or scale.size != 1 or (zero_value is not None and zero is None):
        return None
    if scale.dtype != np.float32 or not scale.item() > 0:
        return None
    coded = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if low.dtype(coded) not in _BYTES:
        return None
    return Grid(float(scale.item()), 0 if zero is None else int(zero.item()), low.dtype(coded))


def source_of(low: Lowering, value: onnx_ir.Value | None) -> tuple[onnx_ir.Value, Grid] | None:
    """Return the codes that a value was computed from while the model runs, and their grid."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear") or low.known(value) is not None:
        return None
    grid, codes = grid_of(low, node), node.inputs[0]
    if grid is None or codes is None or low.dtype(node.outputs[0]) != "float32":
        return None
    return codes, grid


def codes_of(low: Lowering, value: onnx_ir.Value | None) -> Codes | None:
    """Return a constant as symmetric codes; None where it is none, or its grid is another one."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear") or low.dtype(value) != "float32":
        return None
    codes, scale = low.known(node.inputs[0]), low.known(node.inputs[1])
    zero_value = node.inputs[2] if len(node.inputs) > 2 else None
    zero = low.known(zero_value) if zero_value is not None else np.zeros((), np.int32)
    if codes is None or scale is None or zero is None or codes.dtype.name not in _BYTES:
        return None
    if scale.ndim > 1 or attribute_int(node, "block_size", 0):
        return None
    whole = codes.astype(np.int32)
    shift = 128 if codes.dtype == np.uint8 else 0
    if np.any(zero.astype(np.int32) != shift):
        return None
    axis = attribute_int(node, "axis", 1) % max(codes.ndim, 1)
    return Codes((whole - shift).astype(np.int8), scale.astype(np.float32).reshape(-1), axis)
