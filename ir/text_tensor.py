"""Spell tensors in the text form, and stand in for the weights that it leaves out."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.ir.text_syntax import spell_bytes, spell_dtype, spell_floats, spell_shape

ELIDED_KEY = "whet.elided"
"""Key in a stand-in tensor's ``metadata_props`` for the digest of the weight it stands for."""

_DIGEST_LETTERS = 16
_COMPLEX_PART = {
    onnx_ir.DataType.COMPLEX64: onnx_ir.DataType.FLOAT,
    onnx_ir.DataType.COMPLEX128: onnx_ir.DataType.DOUBLE,
}


def spell_tensor(tensor: onnx_ir.TensorProtocol, elide: int) -> str:
    """Spell a tensor: ``float32[2] {0.5, 1.0}``, or ``float32[64, 32] <sha256:…>`` if long."""
    head = spell_dtype(tensor.dtype) + spell_shape(onnx_ir.Shape(tensor.shape.numpy()))
    digest = tensor.metadata_props.get(ELIDED_KEY)
    if digest is None and tensor.size > elide:
        digest = tensor_digest(tensor)
    if digest is not None:
        return f"{head} <sha256:{digest}>"
    return f"{head} {{{', '.join(_spell_elements(tensor))}}}"


def tensor_digest(tensor: onnx_ir.TensorProtocol) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the tensor's bytes."""
    if tensor.dtype == onnx_ir.DataType.STRING:
        data = "\n".join(_spell_elements(tensor)).encode()
    else:
        data = tensor.tobytes()
    return hashlib.sha256(data).hexdigest()[:_DIGEST_LETTERS]


def element_count(dtype: onnx_ir.DataType, shape: Sequence[int]) -> int:
    """Return how many literals spell a tensor: one per element, two per complex element."""
    return math.prod(shape) * (2 if dtype in _COMPLEX_PART else 1)


def tensor_from_elements(
    dtype: onnx_ir.DataType, shape: Sequence[int], elements: Sequence[bool | int | float | bytes]
) -> onnx_ir.TensorProtocol:
    """Build a tensor from its literals in row-major order.

    Raises:
        ValueError: If a literal is not a value of ``dtype``.
    """
    if dtype == onnx_ir.DataType.STRING:
        texts = [element for element in elements if isinstance(element, bytes)]
        if len(texts) != len(elements):
            raise ValueError("a string tensor holds only strings")
        return onnx_ir.StringTensor(texts, shape=onnx_ir.Shape(shape))
    if any(isinstance(element, bytes) for element in elements):
        raise ValueError(f"a {spell_dtype(dtype)} tensor holds no strings")
    packed: NDArray[Any] = _pack(dtype, elements).reshape(shape)
    return onnx_ir.Tensor(packed, dtype=dtype)


def stand_in_tensor(
    dtype: onnx_ir.DataType, shape: Sequence[int], digest: str
) -> onnx_ir.TensorProtocol:
    """Return a pseudo-random tensor that stands for an elided one; it depends on the digest only.

    Floats of rank two and more are normal with variance ``1 / fan_in`` (``fan_in`` is the product
    of all dimensions but the first). Vectors are uniform in [0.5, 1.5), so that they can serve as
    a scale, a bias or a variance. Integers are 0 or 1 (safe as indices), up to 7 below 16 bits.
    """
    rng = np.random.default_rng(int(digest, 16))
    if dtype == onnx_ir.DataType.STRING:
        texts = [f"s{n}".encode() for n in rng.integers(0, 10, math.prod(shape))]
        tensor: onnx_ir.TensorProtocol = onnx_ir.StringTensor(texts, shape=onnx_ir.Shape(shape))
    else:
        tensor = onnx_ir.Tensor(_draw(rng, dtype, shape).astype(dtype.numpy()), dtype=dtype)
    tensor.metadata_props[ELIDED_KEY] = digest
    return tensor


def _draw(
    rng: np.random.Generator, dtype: onnx_ir.DataType, shape: Sequence[int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if dtype == onnx_ir.DataType.BOOL:
        return rng.integers(0, 2, shape)
    if dtype.is_integer():
        top = min(7, int(dtype.max)) if dtype.bitwidth < 16 else 1
        return rng.integers(0, top + 1, shape)
    if dtype == onnx_ir.DataType.FLOAT8E8M0:
        return np.exp2(rng.integers(-3, 1, shape))
    if len(shape) < 2:
        return rng.uniform(0.5, 1.5, shape)
    fan_in = max(1, math.prod(shape[1:]))
    return rng.standard_normal(shape) / math.sqrt(fan_in)


def _pack(
    dtype: onnx_ir.DataType, elements: Sequence[bool | int | float | bytes]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if part := _COMPLEX_PART.get(dtype):
        return np.array(elements, dtype=part.numpy()).view(dtype.numpy())
    if dtype == onnx_ir.DataType.BOOL:
        return np.array(elements, dtype=np.bool_)
    if not dtype.is_integer():
        with np.errstate(over="ignore"):
            return np.array(elements, dtype=np.float64).astype(dtype.numpy())
    for element in elements:
        if not isinstance(element, int) or not int(dtype.min) <= element <= int(dtype.max):
            raise ValueError(f"{element!r} is not a value of {spell_dtype(dtype)}")
    wide = np.uint64 if dtype == onnx_ir.DataType.UINT64 else np.int64
    return np.array(elements, dtype=wide).astype(dtype.numpy())


def _spell_elements(tensor: onnx_ir.TensorProtocol) -> list[str]:
    dtype = tensor.dtype
    if isinstance(tensor, onnx_ir.StringTensor):
        return [spell_bytes(element) for element in tensor.string_data()]
    flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    if dtype == onnx_ir.DataType.STRING:
        return [spell_bytes(element) for element in flat.tolist()]
    if part := _COMPLEX_PART.get(dtype):
        dtype, flat = part, flat.view(part.numpy())
    if dtype == onnx_ir.DataType.BOOL:
        return ["true" if element else "false" for element in flat]
    if dtype.is_integer():
        return [str(int(element)) for element in flat]
    if dtype == onnx_ir.DataType.FLOAT:
        return spell_floats(flat.tolist())
    return [repr(element) for element in flat.astype(np.float64).tolist()]
