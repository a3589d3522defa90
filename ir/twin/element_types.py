"""Element types: what an ONNX type is in torch, and arrays on their way from one to the other."""

import ml_dtypes
import numpy as np
import onnx_ir
import torch

from whet.errors import UnsupportedModel

TORCH_TYPES: dict[onnx_ir.DataType, torch.dtype] = {
    onnx_ir.DataType.FLOAT: torch.float32,
    onnx_ir.DataType.DOUBLE: torch.float64,
    onnx_ir.DataType.FLOAT16: torch.float16,
    onnx_ir.DataType.BFLOAT16: torch.bfloat16,
    onnx_ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx_ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    onnx_ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    onnx_ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    onnx_ir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    onnx_ir.DataType.BOOL: torch.bool,
    onnx_ir.DataType.INT2: torch.int8,
    onnx_ir.DataType.INT4: torch.int8,
    onnx_ir.DataType.INT8: torch.int8,
    onnx_ir.DataType.INT16: torch.int16,
    onnx_ir.DataType.INT32: torch.int32,
    onnx_ir.DataType.INT64: torch.int64,
    onnx_ir.DataType.UINT2: torch.uint8,
    onnx_ir.DataType.UINT4: torch.uint8,
    onnx_ir.DataType.UINT8: torch.uint8,
    onnx_ir.DataType.UINT16: torch.uint16,
    onnx_ir.DataType.UINT32: torch.uint32,
    onnx_ir.DataType.UINT64: torch.uint64,
    onnx_ir.DataType.COMPLEX64: torch.complex64,
    onnx_ir.DataType.COMPLEX128: torch.complex128,
}
"""The torch type of every ONNX type that has one; integers below a byte live in one byte."""

SUB_BYTE = frozenset(
    {
        onnx_ir.DataType.INT2,
        onnx_ir.DataType.INT4,
        onnx_ir.DataType.UINT2,
        onnx_ir.DataType.UINT4,
    }
)
"""Types that are held in one byte."""

INTEGER_RANGES: dict[onnx_ir.DataType, tuple[int, int]] = {
    onnx_ir.DataType.INT2: (-2, 1),
    onnx_ir.DataType.UINT2: (0, 3),
    onnx_ir.DataType.INT4: (-8, 7),
    onnx_ir.DataType.UINT4: (0, 15),
    onnx_ir.DataType.INT8: (-128, 127),
    onnx_ir.DataType.UINT8: (0, 255),
    onnx_ir.DataType.INT16: (-(2**15), 2**15 - 1),
    onnx_ir.DataType.UINT16: (0, 2**16 - 1),
    onnx_ir.DataType.INT32: (-(2**31), 2**31 - 1),
}
"""Lowest and highest value of each integer type that values are quantized to."""

DIFFERENTIABLE = frozenset(
    {
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.DOUBLE,
        onnx_ir.DataType.FLOAT16,
        onnx_ir.DataType.BFLOAT16,
    }
)
"""Types that torch computes with and differentiates; these follow ``to_fx``'s dtype."""

FLOAT8 = frozenset(
    {
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    }
)
"""Types that torch stores but does not compute with."""

_NUMPY_ONLY: dict[np.dtype, tuple[np.dtype, torch.dtype]] = {
    np.dtype(ml_dtypes.bfloat16): (np.dtype(np.int16), torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.dtype(np.uint8), torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (np.dtype(np.uint8), torch.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2): (np.dtype(np.uint8), torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (np.dtype(np.uint8), torch.float8_e5m2fnuz),
    np.dtype(ml_dtypes.float8_e8m0fnu): (np.dtype(np.uint8), torch.float8_e8m0fnu),
}

_SUB_BYTE: dict[np.dtype, np.dtype] = {
    np.dtype(ml_dtypes.int2): np.dtype(np.int8),
    np.dtype(ml_dtypes.int4): np.dtype(np.int8),
    np.dtype(ml_dtypes.uint2): np.dtype(np.uint8),
    np.dtype(ml_dtypes.uint4): np.dtype(np.uint8),
}


def torch_type(dtype: onnx_ir.DataType | int) -> torch.dtype:
    """Look up the torch type of an ONNX type; an ONNX type that torch lacks raises."""
    known = TORCH_TYPES.get(onnx_ir.DataType(dtype))
    if known is None:
        raise UnsupportedModel(f"torch has no element type for ONNX type {onnx_ir.DataType(dtype)}")
    return known


def onnx_type(dtype: torch.dtype) -> onnx_ir.DataType:
    """Look up the ONNX type of a torch type; bytes stand for themselves, not for sub-byte types."""
    for onnx_dtype, known in TORCH_TYPES.items():
        if known is dtype and onnx_dtype not in SUB_BYTE:
            return onnx_dtype
    raise UnsupportedModel(f"ONNX has no element type for {dtype}")


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """Copy a numpy array (ml_dtypes' types included) into a tensor of the same element type."""
    array = np.array(array, copy=True, order="C")
    if array.dtype in _SUB_BYTE:
        return torch.from_numpy(array.astype(_SUB_BYTE[array.dtype]))
    if array.dtype in _NUMPY_ONLY:
        bits, dtype = _NUMPY_ONLY[array.dtype]
        return torch.from_numpy(array.view(bits)).view(dtype)
    if array.dtype.kind not in "fiubc":
        raise UnsupportedModel(f"torch has no element type for numpy type {array.dtype}")
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor into a numpy array of the same element type (ml_dtypes fills numpy's gaps)."""
    tensor = tensor.detach().cpu().contiguous()
    for array_type, (bits, dtype) in _NUMPY_ONLY.items():
        if tensor.dtype is dtype:
            view = torch.int16 if bits == np.dtype(np.int16) else torch.uint8
            return tensor.view(view).numpy().view(array_type).copy()
    return np.array(tensor.numpy(), copy=True)
