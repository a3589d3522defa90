"""What stands in for a weight: arrays that decode to real numbers, and what they take on disk.

Every algorithm of this folder that works on arrays takes a :class:`Layer` and returns one of these; how it is spelled
in a graph is decided elsewhere. Weights are matrices ``[outputs, inputs]``: y = W x, so that a row is an output
channel.
"""

import dataclasses
import math
from abc import ABC, abstractmethod

import numpy as np

from whet.ir.values import Array

__all__ = [
    "Approximation", "Blocks", "Codebook", "Layer", "LowRank", "Outliers", "Sum", "output_error", "packed_bytes",
]  # fmt: skip

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One linear map and what is known of its inputs.

    A convolution is one layer per group, its inputs the patches (``inputs = channels / groups * kernel size``).
    """

    weights: Floats
    """``[outputs, inputs]``."""
    gram: Doubles | None = None
    """Mean of x xᵀ over the inputs seen, ``[inputs, inputs]``; None without calibration data."""
    fisher: Doubles | None = None
    """Mean squared gradient of the loss for each weight, ``[outputs, inputs]``; None without gradients."""
    held_out: Doubles | None = None
    """Gram matrix of other inputs than ``gram``: algorithms fit to that one and are compared by this one. With fewer
    vectors than a few times ``inputs`` in ``gram``, what fits it best is often worse than rounding to the nearest."""

    @property
    def judge(self) -> Doubles | None:
        """Return the Gram matrix that approximations are compared by."""
        return self.gram if self.held_out is None else self.held_out

    def error(self, approximation: "Approximation") -> float:
        """Return ||(Ŵ - W) x||² / ||W x||², averaged over the inputs; over the weights alone without a Gram matrix."""
        return output_error(self.weights, approximation.values(), self.judge)


def output_error(weights: Array, other: Array, gram: Doubles | None) -> float:
    """Return tr(Δ H Δᵀ) / tr(W H Wᵀ) with Δ = other - weights and H the Gram matrix, or the identity.

    Zero where both are zero, infinite where only W H Wᵀ is.
    """
    wanted: Doubles = weights.astype(np.float64)
    lost = _energy(np.subtract(other, wanted, dtype=np.float64), gram)
    if lost == 0.0:
        return 0.0
    whole = _energy(wanted, gram)
    return lost / whole if whole > 0 else math.inf


def _energy(matrix: Doubles, gram: Doubles | None) -> float:
    seen = matrix if gram is None else matrix @ gram
    return max(float(np.vdot(seen, matrix)), 0.0)


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` codes of ``bits`` bits take when they are packed without gaps."""
    return -(-count * bits // 8)


class Approximation(ABC):
    """A matrix that takes fewer bytes."""

    @abstractmethod
    def values(self) -> Floats:
        """Return the decoded matrix ``[outputs, inputs]``."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes of everything that has to be stored, packed."""


@dataclasses.dataclass(frozen=True)
class Blocks(Approximation):
    """Integers with a scale, and maybe a zero point, for each block of inputs: w = (code - zero) * scale.

    One block as long as the row is the usual scale per channel.
    """

    codes: Array
    """``[outputs, inputs]``, int8 where symmetric (zeros is None), else uint8 in 0 … 2^bits - 1."""
    scales: Floats
    """``[outputs, blocks]``."""
    zeros: Array | None
    """uint8 ``[outputs, blocks]``; None where the grid is symmetric around 0."""
    bits: int
    size: int
    """Inputs per block; the last block may be shorter."""

    def values(self) -> Floats:
        """Return (codes - zeros) * scales."""
        inputs = self.codes.shape[1]
        steps = self.codes.astype(np.float32)
        if self.zeros is not None:
            steps -= np.repeat(self.zeros.astype(np.float32), self.size, axis=1)[:, :inputs]
        return np.asarray(steps * np.repeat(self.scales, self.size, axis=1)[:, :inputs], np.float32)

    @property
    def nbytes(self) -> int:
        """Return codes, scales and zero points (packed like the codes)."""
        zeros = 0 if self.zeros is None else packed_bytes(self.zeros.size, self.bits)
        return packed_bytes(self.codes.size, self.bits) + self.scales.nbytes + zeros


@dataclasses.dataclass(frozen=True)
class Codebook(Approximation):
    """Indices into a table of real numbers, one table for each row: w[o, i] = table[o, codes[o, i]].

    A table of one row is shared by all rows.
    """

    codes: Array
    """uint8 ``[outputs, inputs]``."""
    table: Array
    """``[outputs or 1, 2^bits]``, float32 or, to take half the bytes, float16."""
    bits: int

    def values(self) -> Floats:
        """Return what the indices point to."""
        if len(self.table) == 1:
            return np.asarray(self.table[0][self.codes], np.float32)
        return np.asarray(np.take_along_axis(self.table, self.codes.astype(np.intp), 1), np.float32)

    @property
    def nbytes(self) -> int:
        """Return indices and tables."""
        return packed_bytes(self.codes.size, self.bits) + self.table.nbytes


@dataclasses.dataclass(frozen=True)
class Outliers(Approximation):
    """A sparse matrix: a few weights in full precision, zeros elsewhere, rows in compressed form."""

    shape: tuple[int, int]
    counts: Array
    """How many each row has, uint16 or wider, ``[outputs]``."""
    columns: Array
    """uint16 or wider, ``[count]``."""
    numbers: Array
    """``[count]``, float32 or float16."""

    def values(self) -> Floats:
        """Return the matrix with all its zeros."""
        full = np.zeros(self.shape, np.float32)
        rows = np.repeat(np.arange(self.shape[0]), self.counts.astype(np.intp))
        full[rows, self.columns.astype(np.intp)] = self.numbers
        return full

    @property
    def nbytes(self) -> int:
        """Return counts, columns and numbers."""
        return self.counts.nbytes + self.columns.nbytes + self.numbers.nbytes


@dataclasses.dataclass(frozen=True)
class LowRank(Approximation):
    """A product left @ right of rank r."""

    left: Array
    """``[outputs, rank]``, float32 or float16."""
    right: Array
    """``[rank, inputs]``, float32 or float16."""

    def values(self) -> Floats:
        """Return the product, computed in float32."""
        return np.asarray(self.left.astype(np.float32) @ self.right.astype(np.float32), np.float32)

    @property
    def nbytes(self) -> int:
        """Return both factors."""
        return self.left.nbytes + self.right.nbytes


@dataclasses.dataclass(frozen=True)
class Sum(Approximation):
    """Parts that add up: a coarse one and what repairs it."""

    parts: tuple[Approximation, ...]

    def values(self) -> Floats:
        """Return the sum."""
        total = self.parts[0].values()
        for part in self.parts[1:]:
            total = total + part.values()
        return total

    @property
    def nbytes(self) -> int:
        """Return what the parts take."""
        return sum(part.nbytes for part in self.parts)
