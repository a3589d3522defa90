"""A kernel of given sizes, and the ways in which it can be cut: the one that is usual, and what else there is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule
from whet.ir.array import Array

__all__ = ["Packing", "Work", "tiles"]


class Work(ABC):
    """A kernel of given sizes. Equal keys mean equal code and equal work."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> str:
        """Return sizes and what follows the sums: all that the time depends on."""

    @abstractmethod
    def usual(self) -> Schedule:
        """Return what is taken unless something was measured to be better."""

    @abstractmethod
    def groups(self) -> Sequence[Sequence[Schedule]]:
        """Return what can be chosen: the members of a group replace each other, whatever the other groups say."""

    @abstractmethod
    def function(self, schedule: Schedule) -> Any:
        """Return the kernel."""

    @abstractmethod
    def operands(self, draw: np.random.Generator) -> Sequence[Array]:
        """Return random operands, as the model has them."""

    @abstractmethod
    def packed(self, operands: Sequence[Array], schedule: Schedule) -> Sequence[Array]:
        """Return the kernel's arguments but the result for operands."""

    @property
    @abstractmethod
    def constants(self) -> frozenset[int]:
        """Return which arguments are weights, which other kernels push out of the caches between two calls."""

    @property
    @abstractmethod
    def result(self) -> tuple[tuple[int, ...], str]:
        """Return the shape and type of the result."""


class Packing(Work):
    """A kernel of one tensor and fixed weights, which are stored as its schedule reads them."""

    ending: Ending
    machine: Machine

    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the tensor and of the weights."""

    @abstractmethod
    def pack(self, weights: Array, schedule: Schedule) -> Array:
        """Return the weights as the kernel reads them."""

    def operands(self, draw: np.random.Generator) -> Sequence[Array]:
        """Return tensor, weights, and what the ending reads: nothing near zero, where quotients are anything."""
        both = [draw.standard_normal(shape, np.float32) for shape in self.shapes()]
        ends = [_numbers(draw, shape, dtype) for shape, dtype in self.ending.arguments()]
        return [*both, *ends]

    def packed(self, operands: Sequence[Array], schedule: Schedule) -> Sequence[Array]:
        """Return the kernel's arguments."""
        return [operands[0], self.pack(operands[1], schedule), *operands[2:]]

    @property
    def constants(self) -> frozenset[int]:
        """Return the weights."""
        return frozenset({1})


def _numbers(draw: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Return floats near one, or codes of a grid."""
    if np.dtype(dtype).kind in "iu":
        return draw.integers(0, 100, shape).astype(dtype)
    return draw.uniform(0.5, 1.5, shape).astype(dtype)


def tiles(rows: int, outputs: int, machine: Machine) -> list[tuple[int, int]]:
    """Return rows and vectors of tiles that fit into registers: the tallest of each width, and even ones."""
    total = -(-outputs // machine.lanes)
    found: list[tuple[int, int]] = []
    for vectors in range(1, min(total, 6) + 1):
        most = min((machine.registers - vectors) // vectors, rows)
        heights = {most, most - 1, -(-rows // -(-rows // most))}
        found += [(tall, vectors) for tall in sorted(heights, reverse=True) if tall > 0]
    return found
