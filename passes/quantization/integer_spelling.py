"""Spell integer arithmetic with QuantizeLinear and DequantizeLinear, the form that runtimes recognize."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.ir.values import Array, constant
from whet.passes.proposal import Builder
from whet.passes.quantization.arrays import Affine, quantize, symmetric
from whet.passes.quantization.formats import INT32, IntegerFormat
from whet.passes.quantization.integer_steps import Step

__all__ = ["Weights", "decode", "encode", "in_integers"]

_BIAS_LIMIT = 2.0**30


def encode(build: Builder, value: onnx_ir.Value, grid: Affine, name: str) -> onnx_ir.Value:
    """Return the integers of a real value."""
    return build.op("QuantizeLinear", value, *_parameters(build, grid, name))


def decode(build: Builder, value: onnx_ir.Value, grid: Affine, name: str) -> onnx_ir.Value:
    """Return the real value of integers."""
    axis = {} if grid.axis is None else {"axis": grid.axis}
    return build.op("DequantizeLinear", value, *_parameters(build, grid, name), attributes=axis)


def _parameters(build: Builder, grid: Affine, name: str) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    return build.constant(grid.scale, f"{name}.scale"), build.constant(grid.zero, f"{name}.zero")


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a convolution multiplies and adds."""

    matrix: Array
    bias: Array | None
    name: str

    @classmethod
    def of(cls, node: onnx_ir.Node) -> "Weights":
        """Read them from a Conv."""
        matrix = constant(node.inputs[1])
        assert matrix is not None
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        assert node.inputs[1] is not None
        return cls(matrix, bias, node.inputs[1].name or "weight")


def in_integers(
    build: Builder,
    step: Step,
    reads: Sequence[onnx_ir.Value],
    grid: Affine,
    rest: Sequence[onnx_ir.Value | None],
    weights: Weights | None,
    fmt: IntegerFormat,
) -> onnx_ir.Value:
    """Return the real output of the step, spelled so that its kernel runs on the integers behind ``reads``.

    ``grid`` is that of the first operand, ``rest`` are the operands that are not data. The activation
    is left to the output's grid, which ends where it clips.
    """
    attributes = dict(step.node.attributes)
    if weights is None:
        return build.op(step.node.op_type, *reads, *rest, attributes=attributes)
    scales = _with_room(symmetric(weights.matrix, fmt, 0), weights.bias, grid)
    integers = build.constant(quantize(weights.matrix, scales), f"{weights.name}.{fmt.name}")
    operands = [reads[0], decode(build, integers, scales, weights.name)]
    if weights.bias is not None:
        operands.append(_bias(build, weights, scales, grid))
    return build.op("Conv", *operands, attributes=attributes)


def _with_room(scales: Affine, bias: Array | None, grid: Affine) -> Affine:
    """Raise the scale of channels whose bias would not fit into 32 bits."""
    if bias is None:
        return scales
    least = np.abs(bias.astype(np.float64)) / (float(grid.scale) * _BIAS_LIMIT)
    return dataclasses.replace(scales, scale=np.maximum(scales.scale, least.astype(np.float32)))


def _bias(build: Builder, weights: Weights, scales: Affine, grid: Affine) -> onnx_ir.Value:
    assert weights.bias is not None
    scale = np.asarray(scales.scale * grid.scale, np.float32)
    steps = np.rint(weights.bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32)
    exact = Affine(INT32, scale, np.zeros(scale.shape, np.int32), 0)
    name = f"{weights.name}.bias"
    return decode(build, build.constant(steps, f"{name}.int32"), exact, name)
