"""Codes of few bits side by side in bytes, without gaps, so that a runtime can take them apart with broadcasting.

Eight codes of b bits become b bytes: byte k of a group holds bit k of all eight, the first code in its lowest bit.
"""

import numpy as np

from whet.ir.values import Array

__all__ = ["pack", "place_values", "unpack"]

_EIGHT = np.arange(8, dtype=np.uint8)


def pack(codes: Array, bits: int) -> Array:
    """Return uint8 ``[groups, 1, bits]`` for the codes in row-major order; the last group is filled up with zeros.

    Signed codes are stored in two's complement. Raises ValueError for a code that does not fit.
    """
    low, high = _limits(codes, bits)
    if codes.size and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ValueError(
            f"codes from {codes.min()} to {codes.max()} do not fit into {bits} bits, {low} to {high}"
        )
    flat = np.ascontiguousarray(codes).reshape(-1).astype(np.int16).astype(np.uint8)
    groups = np.zeros((-(-flat.size // 8), 8), np.uint8)
    groups.reshape(-1)[: flat.size] = flat
    planes = [((groups >> k) & 1) << _EIGHT for k in range(bits)]
    return np.stack([plane.sum(1, dtype=np.uint8) for plane in planes], -1)[:, None, :]


def unpack(packed: Array, bits: int, count: int, *, signed: bool) -> Array:
    """Return the first ``count`` codes, int8 or uint8."""
    ones = (packed.astype(np.int32) >> _EIGHT[:, None]) & 1
    codes: Array = ones @ place_values(bits, signed=signed).astype(np.int32)
    return np.asarray(codes.reshape(-1)[:count], np.int8 if signed else np.uint8)


def place_values(bits: int, *, signed: bool) -> Array:
    """Return what each bit counts, ``[bits, 1]``: 1, 2, 4, …; the highest of a signed code counts negative.

    int8 where signed, else uint8.
    """
    values = 2 ** np.arange(bits, dtype=np.int16)
    if signed:
        values[-1] = -values[-1]
    return values.astype(np.int8 if signed else np.uint8)[:, None]


def _limits(codes: Array, bits: int) -> tuple[int, int]:
    if codes.dtype.kind == "u":
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
