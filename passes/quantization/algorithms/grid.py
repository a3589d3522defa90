"""Integer grids for blocks of a matrix: a scale, and maybe a zero point, for every few inputs of every row."""

import dataclasses

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Floats

__all__ = ["TINY", "Grid", "as_blocks", "check_bits", "code_limits", "grid_of"]

TINY = float(np.finfo(np.float32).tiny)
"""The smallest magnitude of a scale: its reciprocal is finite."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where weights may lie: (code - zero) * scale with codes of ``bits`` bits, one scale per block of inputs."""

    scales: Floats
    """``[outputs, blocks]``; negative where a full range is turned around."""
    zeros: Array | None
    """uint8 ``[outputs, blocks]``; None where the grid is symmetric around 0."""
    bits: int
    size: int
    """Inputs per block."""
    full: bool = False
    """Whether a symmetric grid uses -2^(bits - 1) too."""

    @property
    def limits(self) -> tuple[int, int]:
        """Return the lowest and the highest code."""
        return code_limits(self.bits, symmetric=self.zeros is None, full=self.full)

    def column(self, number: int) -> tuple[Floats, Floats]:
        """Return scale and zero point of every row at one input."""
        block = number // self.size
        scale = self.scales[:, block]
        if self.zeros is None:
            return scale, np.zeros_like(scale)
        return scale, np.asarray(self.zeros[:, block], np.float32)

    def nearest(self, weights: Array) -> Blocks:
        """Return every weight rounded to the nearest grid point of its block."""
        codes = np.empty(weights.shape, self.dtype)
        low, high = self.limits
        for block in range(self.scales.shape[1]):
            part = slice(block * self.size, (block + 1) * self.size)
            scale, zero = self.column(block * self.size)
            steps = nearest_steps(weights[:, part], scale[:, None], zero[:, None], low, high)
            codes[:, part] = steps
        return self.blocks(codes)

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """Return what codes are stored in."""
        return np.int8 if self.zeros is None else np.uint8

    def blocks(self, codes: Array) -> Blocks:
        """Return the matrix that codes on this grid stand for."""
        return Blocks(
            codes.astype(self.dtype, copy=False), self.scales, self.zeros, self.bits, self.size
        )


def nearest_steps(weights: Array, scale: Array, zero: Array, low: int, high: int) -> Floats:
    """Return clip(round(weights / scale) + zero, low, high), ties to even, as float32."""
    steps: Floats = np.divide(weights, scale, dtype=np.float32)
    np.rint(steps, out=steps)
    steps += np.asarray(zero, np.float32)
    return np.clip(steps, low, high, out=steps)


def code_limits(bits: int, *, symmetric: bool = True, full: bool = False) -> tuple[int, int]:
    """Return the lowest and the highest code of a grid."""
    if not symmetric:
        return 0, 2**bits - 1
    reach = 2 ** (bits - 1) - 1
    return (-reach - 1 if full else -reach), reach


def grid_of(blocks: Blocks) -> Grid:
    """Return the grid that a matrix lies on; it is full where a code is its lowest."""
    full = blocks.zeros is None and bool((blocks.codes == -(2 ** (blocks.bits - 1))).any())
    return Grid(blocks.scales, blocks.zeros, blocks.bits, blocks.size, full)


def as_blocks(matrix: Array, size: int) -> Floats:
    """Return ``[rows, blocks, size]`` in float32, the last block filled up with zeros."""
    rows, inputs = matrix.shape
    count = -(-inputs // size)
    if count * size == inputs:
        return np.asarray(matrix, np.float32).reshape(rows, count, size)
    padded = np.zeros((rows, count * size), np.float32)
    padded[:, :inputs] = matrix
    return padded.reshape(rows, count, size)


def check_bits(weights: Array, bits: int, size: int | None) -> int:
    """Return the inputs per block; raises ValueError for what no grid can be made of."""
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}, a grid has 2 to 8")
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"weights have shape {list(weights.shape)}, not [outputs, inputs]")
    if not np.isfinite(weights).all():
        raise ValueError("a weight is infinite or not a number")
    if size is not None and size < 1:
        raise ValueError(f"a block has {size} inputs, it needs 1 or more")
    inputs = int(weights.shape[1])
    return inputs if size is None else min(size, inputs)
