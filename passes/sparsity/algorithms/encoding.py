"""Arrays in which one number fills most places, without loss: where the others are, and which.

Two forms, and of all their sizes the smallest: a bit for each unit (single numbers, or blocks of a matrix) beside those
units that hold something else; or the distances between neighbouring other numbers, in few bits. A distance that the
bits cannot tell takes entries of the background on the way (Han, Mao & Dally, Deep Compression, 2016).
"""

import dataclasses
from abc import ABC, abstractmethod

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import packed_bytes

__all__ = ["Bitmask", "Distances", "Encoding", "background_of", "encode", "places_of"]

_BLOCKS = ((1, 1), (1, 4), (4, 1), (4, 4), (1, 16), (16, 1))
_DISTANCES = (3, 4, 5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class Encoding(ABC):
    """What is stored of an array."""

    shape: tuple[int, ...]
    background: Array
    """The number that fills the other places, without dimensions."""
    numbers: Array
    """The others, ``[count, numbers of a unit]``."""
    bits: int
    """What each of them takes."""

    @abstractmethod
    def values(self) -> Array:
        """Return the array, bit by bit what it was."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes of everything that is stored."""


@dataclasses.dataclass(frozen=True)
class Bitmask(Encoding):
    """A bit for each unit of the matrix ``[rows, columns]`` that the array is when all axes but the first are one."""

    mask: Array
    """uint8, 1 where a unit is stored, ``[rows / height, columns / width]``."""
    height: int
    width: int

    def values(self) -> Array:
        """Return the array."""
        table = np.concatenate(
            [np.full((1, self.height * self.width), self.background), self.numbers]
        )
        flat = self.mask.reshape(-1).astype(np.int32)
        units = table[np.cumsum(flat) * flat].reshape(*self.mask.shape, self.height, self.width)
        return np.asarray(units.transpose(0, 2, 1, 3).reshape(self.shape))

    @property
    def nbytes(self) -> int:
        """Return mask and numbers, with one unit of the background."""
        size = self.numbers.size + self.height * self.width
        return packed_bytes(self.mask.size, 1) + packed_bytes(size, self.bits)


@dataclasses.dataclass(frozen=True)
class Distances(Encoding):
    """How far each number lies behind the one before it, in row-major order; the first, behind the beginning."""

    gaps: Array
    """uint8, ``[count]``."""
    gap_bits: int

    def values(self) -> Array:
        """Return the array."""
        flat = np.full(int(np.prod(self.shape)), self.background)
        flat[np.cumsum(self.gaps.astype(np.int64))] = self.numbers[:, 0]
        return np.asarray(flat.reshape(self.shape))

    @property
    def nbytes(self) -> int:
        """Return distances and numbers."""
        return packed_bytes(self.gaps.size, self.gap_bits) + packed_bytes(
            self.numbers.size, self.bits
        )


def background_of(array: Array) -> Array:
    """Return what most places of the array hold, compared bit by bit."""
    kinds, counts = np.unique(_as_bits(array), return_counts=True)
    return np.asarray(kinds[int(counts.argmax())]).view(array.dtype).reshape(())


def places_of(array: Array, background: Array) -> Array:
    """Return where the array holds anything else; 0 and -0 differ."""
    return np.asarray(_as_bits(array) != _as_bits(background.reshape(1))[0])


def encode(array: Array, background: Array, bits: int | None = None) -> Encoding:
    """Return the smallest encoding; ``bits`` are what a number takes where it is less than its type's.

    Raises ValueError for an array without numbers.
    """
    if not array.size:
        raise ValueError(f"an array of shape {list(array.shape)} has nothing to encode")
    each = array.dtype.itemsize * 8 if bits is None else bits
    places = places_of(array, background)
    found: list[Encoding] = [
        _masked(array, places, background, each, *block)
        for block in _BLOCKS
        if _divides(array.shape, *block)
    ]
    found += [_distances(array, places, background, each, gap) for gap in _DISTANCES]
    return min(found, key=lambda encoding: encoding.nbytes)


def _as_bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _divides(shape: tuple[int, ...], height: int, width: int) -> bool:
    rows = shape[0] if shape else 1
    columns = int(np.prod(shape)) // rows
    return rows % height == 0 and columns % width == 0


def _masked(
    array: Array, places: Array, background: Array, bits: int, height: int, width: int
) -> Bitmask:
    rows = array.shape[0] if array.shape else 1
    form = (rows // height, height, -1, width)
    blocks = array.reshape(form).transpose(0, 2, 1, 3)
    mask = places.reshape(form).any((1, 3))
    numbers = blocks[mask].reshape(-1, height * width)
    kept = np.asarray(mask, np.uint8)
    return Bitmask(
        array.shape, background, np.ascontiguousarray(numbers), bits, kept, height, width
    )


def _distances(
    array: Array, places: Array, background: Array, bits: int, gap_bits: int
) -> Distances:
    """Return places as distances of at most 2^bits - 1, entries of the background between those farther apart."""
    where = np.flatnonzero(places)
    steps = np.diff(where, prepend=0)
    longest = 2**gap_bits - 1
    between = np.maximum(-(-steps // longest) - 1, 0)
    ends = np.cumsum(between + 1) - 1
    gaps = np.full(int((between + 1).sum()), longest, np.uint8)
    gaps[ends] = steps - between * longest
    numbers = np.full((len(gaps), 1), background)
    numbers[ends, 0] = array.reshape(-1)[where]
    return Distances(array.shape, background, numbers, bits, gaps, gap_bits)
