"""Quantization; with ``straight_through`` it can be trained.

Straight through, QuantizeLinear keeps its integers in the input's floating type: rounding then has
the gradient of the identity, clamping that of a clamp, and the scale the gradient of learned step
size quantization (Esser et al., 2020).
"""

from collections.abc import Sequence

import onnx_ir
import torch
from torch import Tensor

from whet.ir.twin.element_types import FLOAT8, INTEGER_RANGES, onnx_type, torch_type
from whet.ir.twin.ops.casting import cast_to
from whet.ir.twin.ops.convolution import conv
from whet.ir.twin.registry import op


def _aligned(values: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Shape scales or zero points so that they broadcast against ``x``."""
    if values.ndim == 0 or (values.numel() == 1 and values.ndim <= 1):
        return values.reshape(())
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if values.ndim > 1:
        return values
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _plain(x: Tensor) -> Tensor:
    return x.to(torch.float32) if x.dtype in FLOAT8 else x


def _quotient(x: Tensor, scale: Tensor, precision: int | None) -> Tensor:
    common = torch.promote_types(x.dtype, scale.dtype)
    wanted = torch_type(precision) if precision else common
    return x.to(wanted) / scale.to(wanted)


def _rounded_through(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


def _target(
    zero_point: Tensor | None, output_dtype: int | None, known: Sequence[int | None]
) -> onnx_ir.DataType:
    if zero_point is None:
        return onnx_ir.DataType(output_dtype or onnx_ir.DataType.UINT8)
    typed = known[2] if len(known) > 2 else None
    if typed is not None and torch_type(typed) is zero_point.dtype:
        return onnx_ir.DataType(typed)
    if zero_point.is_floating_point() and zero_point.dtype not in FLOAT8:
        return onnx_ir.DataType(output_dtype or typed or onnx_ir.DataType.UINT8)
    return onnx_type(zero_point.dtype)


def _quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    input_types: Sequence[int | None],
    straight_through: bool,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int | None = None,
    precision: int | None = None,
    saturate: int = 1,
) -> Tensor:
    target = _target(zero_point, output_dtype, input_types)
    quotient = _quotient(x, _aligned(scale, x, axis, block_size), precision)
    if target not in INTEGER_RANGES:
        return _quantize_float8(quotient, x, target, bool(saturate), straight_through)
    low, high = INTEGER_RANGES[target]
    shift = torch.zeros((), dtype=torch.int64)
    if zero_point is not None:
        shift = _aligned(zero_point, x, axis, block_size).to(torch.int64)
    if straight_through:
        return (_rounded_through(quotient) + shift.to(quotient.dtype)).clamp(low, high).to(x.dtype)
    whole = torch.round(quotient).double().clamp(-(2**40), 2**40).to(torch.int64)
    return (whole + shift).clamp(low, high).to(torch_type(target))


def _quantize_float8(
    quotient: Tensor, x: Tensor, target: onnx_ir.DataType, saturate: bool, straight_through: bool
) -> Tensor:
    rounded = cast_to(quotient, target, saturate=saturate)
    if not straight_through:
        return rounded
    limit = torch.finfo(rounded.dtype).max
    inside = quotient.clamp(-limit, limit)
    return (inside + (rounded.to(inside.dtype) - inside).detach()).to(x.dtype)


@op("QuantizeLinear", since=10, widen=False)
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    input_types: Sequence[int | None],
    straight_through: bool,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int | None = None,
    precision: int | None = None,
    saturate: int = 1,
) -> Tensor:
    """Compute ``clamp(round(x / scale) + zero_point)``, per tensor, channel or block."""
    return _quantize(
        x,
        scale,
        zero_point,
        input_types=input_types,
        straight_through=straight_through,
        axis=axis,
        block_size=block_size,
        output_dtype=output_dtype,
        precision=precision,
        saturate=saturate,
    )


@op("QuantizeLinear", domain="com.microsoft", widen=False)
def quantize_linear_contrib(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    input_types: Sequence[int | None],
    straight_through: bool,
    axis: int = 1,
) -> Tensor:
    """Compute ``clamp(round(x / scale) + zero_point)`` (16 and 4 bits before opset 21)."""
    return _quantize(
        x,
        scale,
        zero_point,
        input_types=input_types,
        straight_through=straight_through,
        axis=axis,
    )


def _dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int,
    block_size: int,
    output_dtype: int | None,
) -> Tensor:
    dtype = torch_type(output_dtype) if output_dtype else scale.dtype
    wide = torch.promote_types(scale.dtype, torch.float32)
    centred = x.to(wide)
    if zero_point is not None:
        centred = centred - _aligned(_plain(zero_point).to(wide), x, axis, block_size)
    return (centred * _aligned(scale, x, axis, block_size)).to(dtype)


@op("DequantizeLinear", since=10, widen=False)
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int | None = None,
) -> Tensor:
    """Compute ``(x - zero_point) scale``, per tensor, channel or block."""
    return _dequantize(x, scale, zero_point, axis, block_size, output_dtype)


@op("DequantizeLinear", domain="com.microsoft", widen=False)
def dequantize_linear_contrib(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    """Compute ``(x - zero_point) scale`` (16 and 4 bits before opset 21)."""
    return _dequantize(x, scale, zero_point, axis, 0, None)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize to uint8 over the range of the input and 0; return values, scale, zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round(-low / scale).clamp(0, 255)
    y = (torch.round(x / scale) + zero_point).clamp(0, 255)
    return y.to(torch.uint8), scale, zero_point.to(torch.uint8)


def _centred(x: Tensor, zero_point: Tensor | None, *, rows: bool = False) -> Tensor:
    wide = x.to(torch.float64)
    if zero_point is None:
        return wide
    shift = zero_point.to(torch.float64)
    shift = shift.unsqueeze(-1) if rows and shift.ndim == 1 and shift.numel() > 1 else shift
    return wide - shift


@op("MatMulInteger", since=10)
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Multiply centred integers into int32; float64 holds every partial sum exactly."""
    left, right = _centred(a, a_zero_point, rows=True), _centred(b, b_zero_point)
    return torch.matmul(left, right).to(torch.int64).to(torch.int32)


@op("ConvInteger", since=10)
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str,
    group: int,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve centred integers into int32."""
    centred = _centred(weight, None)
    if w_zero_point is not None:
        centred = centred - _aligned(w_zero_point.to(torch.float64), weight, 0, 0)
    y = conv(
        _centred(x, x_zero_point),
        centred,
        auto_pad=auto_pad,
        group=group,
        dilations=dilations,
        pads=pads,
        strides=strides,
    )
    return torch.round(y).to(torch.int32)


def _requantized(y: Tensor, zero_point: Tensor) -> Tensor:
    low, high = INTEGER_RANGES[onnx_type(zero_point.dtype)]
    return (torch.round(y) + zero_point).clamp(low, high).to(zero_point.dtype)


def _by_row(scale: Tensor) -> Tensor:
    return scale.double().unsqueeze(-1) if scale.ndim == 1 and scale.numel() > 1 else scale.double()


@op("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Multiply quantized matrices into a quantized one."""
    product = torch.matmul(_centred(a, a_zero_point, rows=True), _centred(b, b_zero_point))
    y = product * _by_row(a_scale) * b_scale.double() / y_scale.double()
    return _requantized(y, y_zero_point)


@op("QLinearConv", since=10)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str,
    group: int,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve quantized tensors into a quantized one; the bias has scale ``x_scale w_scale``."""
    y = conv(
        _centred(x, x_zero_point),
        weight.double() - _aligned(w_zero_point.double(), weight, 0, 0),
        None if bias is None else bias.double(),
        auto_pad=auto_pad,
        group=group,
        dilations=dilations,
        pads=pads,
        strides=strides,
    )
    factor = _aligned(w_scale.double(), y, 1, 0) * x_scale.double() / y_scale.double()
    return _requantized(y * factor, y_zero_point)


@op("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_quantize_matmul(
    a: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Quantize ``a`` on the fly, multiply integers, scale back."""
    quantized, a_scale, a_zero_point = dynamic_quantize_linear(a)
    product = torch.matmul(_centred(quantized, a_zero_point), _centred(b, b_zero_point))
    y = product.to(a.dtype) * (a_scale * b_scale)
    return y if bias is None else y + bias


@op("MatMulIntegerToFloat", domain="com.microsoft")
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Multiply integers and scale to floating point."""
    product = torch.matmul(_centred(a, a_zero_point), _centred(b, b_zero_point))
    y = product.to(a_scale.dtype) * (a_scale * b_scale)
    return y if bias is None else y + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Spread bytes into numbers of ``bits`` bits, low bits first, along the last axis."""
    shifts = torch.arange(0, 8, bits)
    wide = packed.to(torch.int64).unsqueeze(-1)
    numbers: Tensor = (wide >> shifts) & (2**bits - 1)
    return numbers.flatten(-2)


@op("MatMulNBits", domain="com.microsoft")
def matmul_n_bits(
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,  # the attribute's name
    N: int,  # the attribute's name
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
) -> Tensor:
    """Multiply by a weight of a few bits in blocks; ``b`` is (N, blocks, bytes per block)."""
    blocks = -(-K // block_size)
    whole = _unpacked(b.reshape(N, blocks, -1), bits).to(scales.dtype)
    if zero_points is None:
        shift = torch.full((N, blocks), float(2 ** (bits - 1)), dtype=scales.dtype)
    elif zero_points.dtype is torch.uint8:
        shift = _unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].to(scales.dtype)
    else:
        shift = zero_points.reshape(N, blocks)
    scale = scales.reshape(N, blocks)
    if g_idx is None:
        weight = ((whole - shift.unsqueeze(-1)) * scale.unsqueeze(-1)).reshape(N, -1)[:, :K]
    else:
        block = g_idx.to(torch.int64)
        weight = (whole.reshape(N, -1)[:, :K] - shift[:, block]) * scale[:, block]
    y = torch.matmul(a, weight.to(a.dtype).t())
    return y if bias is None else y + bias
