"""Weights of products and convolutions: float32, integers with a scale per output, or computed while the model runs."""

import dataclasses

import numpy as np
import onnx_ir

from whet.backends.c.lowering import Lowering
from whet.ir.array import Array
from whet.ir.values import attribute_int, attribute_ints, is_op

__all__ = ["Quantized", "Weights", "quantized", "read_weights"]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A constant that was stored as integers: ``scale * integers``, the zero point taken off."""

    integers: Array
    scale: Array
    """float32, of the same rank, with one element along axes that share it."""

    def along(self, axis: int) -> Array | None:
        """Return the scales along one axis; None if they differ along another."""
        sizes = [n for k, n in enumerate(self.scale.shape) if k != axis]
        if any(n != 1 for n in sizes):
            return None
        return np.broadcast_to(self.scale.reshape(-1), (self.integers.shape[axis],))


@dataclasses.dataclass(frozen=True)
class Weights:
    """A constant operand: numbers, or integers with the scale of each output."""

    array: Array
    scale: Array | None = None


def read_weights(low: Lowering, value: onnx_ir.Value | None, axis: int) -> Weights | None:
    """Return a constant operand whose outputs are along ``axis``; None if it is no constant."""
    array = low.known(value)
    if array is None or value is None:
        return None
    found = quantized(low, value)
    scale = None if found is None else found.along(axis % array.ndim)
    if found is None or scale is None:
        return Weights(array)
    low.note_packed(found.integers)
    return Weights(narrowed(found.integers), np.ascontiguousarray(scale, np.float32))


def narrowed(integers: Array) -> Array:
    """Return integers in the narrowest type of 8, 16 or 32 bits."""
    for kind in (np.int8, np.int16):
        info = np.iinfo(kind)
        if integers.size == 0 or (integers.min() >= info.min and integers.max() <= info.max):
            return integers.astype(kind)
    return integers.astype(np.int32)


def quantized(low: Lowering, value: onnx_ir.Value) -> Quantized | None:
    """Return the integers behind a constant that a DequantizeLinear makes, also through a change of axes."""
    node = value.producer()
    if node is None:
        return None
    if is_op(node, "Transpose"):
        return _transposed(low, node)
    if not is_op(node, "DequantizeLinear") or attribute_int(node, "block_size", 0):
        return None
    codes, scale = low.known(node.inputs[0]), low.known(node.inputs[1])
    zero = low.known(node.inputs[2]) if len(node.inputs) > 2 else None
    if codes is None or scale is None or scale.dtype != np.float32:
        return None
    integers = codes.astype(np.int32)
    shape = [1] * codes.ndim
    if scale.size > 1:
        axis = attribute_int(node, "axis", 1) % codes.ndim
        shape[axis] = scale.size
    if zero is not None:
        integers = integers - zero.astype(np.int32).reshape(shape)
    return Quantized(integers, scale.reshape(shape))


def _transposed(low: Lowering, node: onnx_ir.Node) -> Quantized | None:
    inner = node.inputs[0]
    found = None if inner is None else quantized(low, inner)
    if found is None:
        return None
    axes = attribute_ints(node, "perm") or tuple(reversed(range(found.integers.ndim)))
    return Quantized(found.integers.transpose(axes), found.scale.transpose(axes))
