"""The weights of a step as a matrix, and as integers on a grid with a scale per output channel."""

import dataclasses
import math

import numpy as np
import onnx_ir

from whet.ir.values import Array, attribute_int, constant
from whet.passes.quantization.algorithms.approximation import Floats
from whet.passes.quantization.algorithms.arrays import Affine, quantize, symmetric
from whet.passes.quantization.algorithms.formats import IntegerFormat

__all__ = ["Codes", "Weights", "nearest_codes"]

_BIAS_LIMIT = 2.0**30


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a step multiplies and adds."""

    array: Array
    """As the node reads it."""
    bias: Array | None
    name: str
    axis: int
    """Which dimension counts output channels."""
    groups: int = 1
    takes_bias: bool = True
    """Whether the operator can add a bias."""

    @classmethod
    def of(cls, node: onnx_ir.Node, added: onnx_ir.Node | None = None) -> "Weights":
        """Read them from a Conv, ConvTranspose, MatMul or Gemm; ``added`` is the Add of a bias behind a MatMul."""
        array = constant(node.inputs[1])
        assert array is not None
        assert node.inputs[1] is not None
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if added is not None:
            bias = next(a for v in added.inputs if (a := constant(v)) is not None).reshape(-1)
        second = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
        axis = second.get(node.op_type, 1 - attribute_int(node, "transB", 0))
        groups = attribute_int(node, "group", 1)
        takes_bias = node.op_type != "MatMul" or added is not None
        return cls(array, bias, node.inputs[1].name or "weight", axis, groups, takes_bias)

    def matrix(self) -> Floats:
        """Return ``[outputs, inputs]``; the inputs of a convolution are those of its own group."""
        rows = np.moveaxis(self.array, self.axis, 0)
        return np.ascontiguousarray(rows.reshape(len(rows), -1), np.float32)

    def arranged(self, matrix: Array) -> Array:
        """Return a matrix ``[outputs, inputs]`` as the node reads it."""
        shape = list(self.array.shape)
        outputs = shape.pop(self.axis)
        assert matrix.shape == (outputs, math.prod(shape))
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(outputs, *shape), 0, self.axis))


@dataclasses.dataclass(frozen=True)
class Codes:
    """Integers that stand for weights, and the bias that goes with them."""

    integers: Array
    """int8, arranged as the node reads it."""
    grid: Affine
    bits: int
    bias: Array | None
    method: str = "nearest"

    @property
    def nbytes(self) -> int:
        """Return what is stored: codes without gaps, scales, the bias in 32 bits."""
        channels = 0 if self.bias is None else 4 * self.bias.size
        return -(-self.integers.size * self.bits // 8) + self.grid.scale.nbytes + channels

    def has_room(self, scale: float) -> bool:
        """Tell whether the bias fits into 32 bits where ``scale`` is that of the activation."""
        if self.bias is None:
            return True
        steps = np.abs(self.bias.astype(np.float64)) / (self.grid.scale.astype(np.float64) * scale)
        return bool((steps <= _BIAS_LIMIT).all())

    def values(self) -> Array:
        """Return the real weights."""
        scale = self.grid.along(self.grid.scale, self.integers.ndim)
        return np.asarray(np.multiply(self.integers, scale, dtype=np.float32), np.float32)


def nearest_codes(weights: Weights, fmt: IntegerFormat, scale: float) -> Codes:
    """Round to the grid whose ends are each channel's largest weight.

    ``scale`` is that of the activation: a channel whose bias would not fit into 32 bits gets a wider grid.
    """
    grid = _with_room(symmetric(weights.array, fmt, weights.axis), weights.bias, scale)
    return Codes(quantize(weights.array, grid), grid, 8, weights.bias)


def _with_room(grid: Affine, bias: Array | None, scale: float) -> Affine:
    if bias is None:
        return grid
    least = np.abs(bias.astype(np.float64)) / (scale * _BIAS_LIMIT)
    return dataclasses.replace(grid, scale=np.maximum(grid.scale, least.astype(np.float32)))
