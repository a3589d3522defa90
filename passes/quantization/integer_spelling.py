"""Spell integer arithmetic with QuantizeLinear and DequantizeLinear, the form that runtimes recognize.

What only moves values is spelled on the integers themselves.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_float, constant
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.arrays import Affine, affine, quantize
from whet.passes.quantization.algorithms.formats import INT32
from whet.passes.quantization.integer_steps import Step
from whet.passes.quantization.storage import spell_integers
from whet.passes.quantization.weight_codes import Codes

__all__ = ["decode", "encode", "in_integers", "moved", "source"]


def encode(build: Builder, value: onnx_ir.Value, grid: Affine, name: str) -> onnx_ir.Value:
    """Return the integers of a real value."""
    found = build.op("QuantizeLinear", value, *_parameters(build, grid, name))
    found.name = build.fresh(f"{name}.q")
    return found


def decode(
    build: Builder, value: onnx_ir.Value, grid: Affine, name: str, *, fixed_zero: bool = True
) -> onnx_ir.Value:
    """Return the real value of integers; a zero point that the format fixes is written with ``fixed_zero`` only."""
    axis = {} if grid.axis is None else {"axis": grid.axis}
    parameters = _parameters(build, grid, name)
    if grid.format.zero == 0 and not fixed_zero:
        parameters = parameters[:1]
    found = build.op("DequantizeLinear", value, *parameters, attributes=axis)
    found.name = build.fresh(f"{name}.r")
    return found


def _parameters(build: Builder, grid: Affine, name: str) -> tuple[onnx_ir.Value, ...]:
    return build.constant(grid.scale, f"{name}.scale"), build.constant(grid.zero, f"{name}.zero")


def source(real: onnx_ir.Value) -> onnx_ir.Value:
    """Return the integers behind what :func:`decode` returned."""
    maker = real.producer()
    assert maker is not None
    assert maker.inputs[0] is not None
    return maker.inputs[0]


def in_integers(
    build: Builder,
    step: Step,
    reads: Sequence[onnx_ir.Value],
    grid: Affine,
    codes: Codes | None,
    name: str,
    opset: int,
) -> onnx_ir.Value:
    """Return the real output of a product or function, spelled so that it runs on the integers behind ``reads``.

    ``grid`` is that of the first operand. The activation is left to the output's grid, which ends where it clips.
    """
    attributes = dict(step.node.attributes)
    if codes is None:
        operands = _operands(build, step, reads, grid)
        return build.op(step.node.op_type, *operands, attributes=attributes)
    shape = codes.integers.shape
    integers = spell_integers(build, codes.integers, codes.bits, shape, name, opset=opset)
    # ONNX Runtime fuses Gemm only where all zero points are written down.
    kind = step.node.op_type if step.added is None else "Gemm"
    zeros = kind == "Gemm"
    factors = [reads[0], decode(build, integers, codes.grid, name, fixed_zero=zeros)]
    if codes.bias is not None:
        real, exact = _bias(build, codes, codes.bias, grid, name)
        factors.append(decode(build, real, exact, f"{name}.bias", fixed_zero=zeros))
    return build.op(kind, *factors, attributes=attributes)


def _operands(
    build: Builder, step: Step, reads: Sequence[onnx_ir.Value], grid: Affine
) -> list[onnx_ir.Value | None]:
    """Return data as they come in and constants on grids of their own."""
    left = iter(reads)
    found: list[onnx_ir.Value | None] = []
    for position, value in enumerate(step.node.inputs):
        array = constant(value)
        if position in step.data:
            found.append(next(left))
        elif array is None:
            found.append(value)
        else:
            own = affine(float(array.min()), float(array.max()), grid.format)
            integers = build.constant(quantize(array, own), f"{step.node.name}.operand")
            found.append(decode(build, integers, own, f"{step.node.name}.operand"))
    return found


def _bias(
    build: Builder, codes: Codes, bias: Array, grid: Affine, name: str
) -> tuple[onnx_ir.Value, Affine]:
    """Return the bias in steps of the products, and their grid."""
    scale = np.asarray(codes.grid.scale * grid.scale, np.float32)
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    most = np.abs(steps).max(initial=0)
    if most > 2.0**31 - 1:
        raise Mismatch(f"the bias is {most:.3g} steps of its grid, more than 32 bits hold")
    integers = build.constant(steps.astype(np.int32), f"{name}.bias")
    return integers, Affine(INT32, scale, np.zeros(scale.shape, np.int32), 0)


def moved(
    build: Builder,
    step: Step,
    integers: onnx_ir.Value,
    grid: Affine,
    rest: Sequence[onnx_ir.Value | None],
) -> tuple[onnx_ir.Value, ...]:
    """Return the outputs of a move, made from integers on ``grid``; ``rest`` are the other operands."""
    node = step.node
    zero = build.constant(grid.zero, f"{node.name}.zero")
    if node.op_type == "Relu":
        return (build.op("Clip", integers, zero),)
    operands = list(rest)
    if node.op_type == "Pad":
        operands[1:2] = [zero]
    attributes = dict(node.attributes)
    if node.op_type == "Resize" and attribute_float(node, "extrapolation_value", 0.0) == 0.0:
        attributes.pop("extrapolation_value", None)
    return build.ops(node.op_type, [integers, *operands], len(node.outputs), attributes=attributes)
