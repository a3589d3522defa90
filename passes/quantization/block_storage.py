"""Blocks of integers as bytes, in the order in which ONNX Runtime's kernels for packed weights read them."""

import dataclasses

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Floats

__all__ = ["LARGEST_PACKED", "PackedBlocks", "kernel_size", "pack", "store"]

_LEAST = 16
"""Inputs of the smallest block that the kernels take."""
LARGEST_PACKED = 256
"""Inputs of the largest block that products take."""


@dataclasses.dataclass(frozen=True)
class PackedBlocks:
    """Codes without gaps, low bits first; rows and blocks begin at whole bytes."""

    codes: Array
    """uint8 ``[outputs, blocks, size * bits / 8]``; the last block is filled up with the code of zero."""
    scales: Floats
    """``[outputs, blocks]``."""
    zeros: Array | None
    """Codes of zero packed like the codes, ``[outputs, bytes]``; None where all are 2^(bits - 1)."""
    bits: int
    size: int
    """Inputs per block: a power of two."""
    inputs: int

    @property
    def nbytes(self) -> int:
        """Return the bytes that all of it takes."""
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros

    @property
    def outputs(self) -> int:
        """Return the number of rows."""
        return len(self.codes)

    @property
    def is_full(self) -> bool:
        """Tell whether no code is there only to fill up a block."""
        return self.codes.shape[1] * self.size == self.inputs


def kernel_size(size: int, inputs: int) -> int:
    """Return the block that the kernels know: a power of two, and not larger than it takes to hold all inputs."""
    whole = 1 << max(inputs - 1, 0).bit_length()
    return max(_LEAST, min(1 << max(size - 1, 0).bit_length(), whole))


def store(blocks: Blocks) -> PackedBlocks:
    """Pack codes and zero points; raises ValueError for bits or blocks that the kernels do not read."""
    if blocks.bits not in (2, 4, 8):
        raise ValueError(f"codes of {blocks.bits} bits, the kernels read 2, 4 or 8")
    outputs, inputs = blocks.codes.shape
    count = blocks.scales.shape[1]
    size = kernel_size(blocks.size, inputs)
    if count > 1 and size != blocks.size:
        raise ValueError(
            f"blocks of {blocks.size} inputs, the kernels read powers of two from {_LEAST} on"
        )
    middle = 1 << (blocks.bits - 1)
    steps = blocks.codes.astype(np.int16) + (middle if blocks.zeros is None else 0)
    full = np.full((outputs, count * size), middle, np.uint8)
    full[:, :inputs] = steps
    zeros = None if blocks.zeros is None else pack(blocks.zeros, blocks.bits)
    codes = pack(full, blocks.bits).reshape(outputs, count, size * blocks.bits // 8)
    return PackedBlocks(codes, blocks.scales, zeros, blocks.bits, size, inputs)


def pack(codes: Array, bits: int) -> Array:
    """Return codes along the last axis as bytes, low bits first; the last byte of a row is filled up with zeros."""
    share = 8 // bits
    missing = -codes.shape[-1] % share
    if missing:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    parts = codes.astype(np.uint8).reshape(*codes.shape[:-1], -1, share)
    shifts = np.arange(share, dtype=np.uint8) * np.uint8(bits)
    return np.asarray(np.bitwise_or.reduce(parts << shifts, axis=-1), np.uint8)
