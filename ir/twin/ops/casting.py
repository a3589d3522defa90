"""Casts between element types, and constants."""

from collections.abc import Sequence

import onnx_ir
import torch
from torch import Tensor

from whet.ir.twin.element_types import FLOAT8, INTEGER_RANGES, SUB_BYTE, onnx_type, torch_type
from whet.ir.twin.registry import op


def cast_to(x: Tensor, onnx_dtype: int, *, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Cast as ONNX does: floats truncate to integers, float8 saturates unless told not to."""
    target = onnx_ir.DataType(onnx_dtype)
    dtype = torch_type(target)
    if x.dtype in FLOAT8 and dtype is not x.dtype:
        x = x.to(torch.float32)
    if target in SUB_BYTE:
        return _wrapped(x, *INTEGER_RANGES[target]).to(dtype)
    if dtype is torch.float8_e8m0fnu:
        return _powers_of_two(x, round_mode)
    if dtype in FLOAT8 and dtype is not x.dtype:
        return _to_float8(x, dtype, saturate=saturate)
    if x.is_floating_point() and not dtype.is_floating_point and not dtype.is_complex:
        return _truncated(x, dtype)
    return x.to(dtype)


def _truncated(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype is torch.bool or dtype is torch.int64 or dtype is torch.uint64:
        return x.to(dtype)
    return x.to(torch.int64).to(dtype)


def _wrapped(x: Tensor, low: int, high: int) -> Tensor:
    return torch.remainder(x.to(torch.int64) - low, high - low + 1) + low


def _to_float8(x: Tensor, dtype: torch.dtype, *, saturate: bool) -> Tensor:
    x = x.to(torch.float32)
    limit = torch.finfo(dtype).max
    if saturate:
        return x.clamp(-limit, limit).to(dtype)
    if dtype is torch.float8_e4m3fn:  # torch saturates this one; 464 lies between 448 and the next
        x = torch.where(x.abs() > 464, torch.nan, x)
    return x.to(dtype)


def _powers_of_two(x: Tensor, round_mode: str) -> Tensor:
    mantissa, exponent = torch.frexp(x.to(torch.float32).abs())
    threshold = {"up": 0.5, "nearest": 0.75, "down": 1.0}[round_mode]
    above = mantissa > threshold if round_mode == "up" else mantissa >= threshold
    exponent = torch.where(x == 0, -127, exponent - 1 + above.to(torch.int32)).clamp(-127, 127)
    power = torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent)
    power = torch.where(torch.isnan(x), torch.nan, power)
    return power.to(torch.float32).to(torch.float8_e8m0fnu)


@op("Cast", since=6, widen=False)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Cast to a type named by an attribute."""
    return cast_to(x, to, saturate=bool(saturate), round_mode=round_mode)


@op("CastLike", since=15, widen=False)
def cast_like(
    x: Tensor,
    like: Tensor,
    *,
    input_types: Sequence[int | None],
    saturate: int = 1,
    round_mode: str = "up",
) -> Tensor:
    """Cast to the type of the second input."""
    known = input_types[1] or int(onnx_type(like.dtype))
    return cast_to(x, known, saturate=bool(saturate), round_mode=round_mode)


@op("BitCast", since=26, widen=False)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """Read the same bits as another type of the same width."""
    return x.view(torch_type(to))


@op("Constant", since=1)
def constant(
    *,
    implicit_type: torch.dtype,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    """Return the tensor that the attributes spell."""
    if value is not None:
        return value
    integers = value_ints if value_int is None else value_int
    if integers is not None:
        return torch.tensor(integers, dtype=torch.int64)
    floats = value_floats if value_float is None else value_float
    return torch.tensor(floats, dtype=implicit_type)


@op("ConstantOfShape", since=9)
def constant_of_shape(
    shape: Tensor, *, implicit_type: torch.dtype, value: Tensor | None = None
) -> Tensor:
    """Fill a shape with one value, 0 if none is given."""
    if value is None:
        return torch.zeros(shape.tolist(), dtype=implicit_type)
    return value.reshape(()).expand(shape.tolist()).clone()


@op("EyeLike", since=9)
def eye_like(x: Tensor, *, k: int, dtype: int | None = None) -> Tensor:
    """Put ones on the k-th diagonal of a matrix of the input's shape."""
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    columns = torch.arange(x.shape[1]).unsqueeze(0)
    ones = columns - rows == k
    return ones.to(x.dtype if dtype is None else torch_type(dtype))


@op("Range", since=11)
def arange(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    """Count from ``start`` to before ``limit`` by ``delta``."""
    if not start.is_floating_point():
        numbers = range(int(start), int(limit), int(delta))
        return torch.tensor(list(numbers), dtype=start.dtype)
    exact = torch.promote_types(start.dtype, torch_type(stash_type))
    begin, end, step = start.to(exact), limit.to(exact), delta.to(exact)
    count = max(int(torch.ceil((end - begin) / step)), 0)
    return (begin + torch.arange(count).to(exact) * step).to(start.dtype)
