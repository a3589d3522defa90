"""Rows times a constant matrix, by the kernel that takes the fewest cycles: all of it, or only what is not zero."""

import math
from functools import partial
from typing import Any

import numpy as np

from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.scattered import Cut, cut_numbers, gather_numbers, scattered
from whet.backends.tvm.kernels.sparse import cut_blocks, gather_blocks, sparse
from whet.backends.tvm.kernels.writing import Tiling, best_tiling, cycles
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.machine import Machine, arrival
from whet.backends.tvm.works.dense import Dense
from whet.ir.array import Array

__all__ = ["choose", "multiplied"]

_WORTH = 0.7
"""Share of the dense kernel's cycles below which zeros are left out."""


def multiplied(low: Lowering, x: Any, shape: tuple[int, ...], matrix: Array, ending: Ending) -> Any:
    """Return the rows of ``x`` times a matrix ``[inputs, outputs]``, and what follows."""
    outputs, machine = matrix.shape[1], low.machine
    cut = choose(matrix, math.prod(shape[:-1]), machine)
    shapes = (shape, (*shape[:-1], outputs))
    if cut is None:
        return low.cut(Dense(shape, outputs, ending, machine), x, matrix)
    key: tuple[object, ...]
    if isinstance(cut, Cut):
        numbers = gather_numbers(matrix, cut)
        count = numbers.values.size
        weights = (numbers.values, numbers.places, numbers.starts)
        make = partial(scattered, shapes, cut, count, ending, machine.threads)
        key = ("scattered", shapes, cut, count, ending)
    else:
        blocks = gather_blocks(matrix, cut)
        weights = (blocks.values, blocks.places, blocks.starts)
        make = partial(sparse, shapes, (cut, blocks.count), ending, machine.threads)
        key = ("sparse", shapes, cut, blocks.count, ending)
    arguments = [x, *map(low.constant, weights), *ending.tensors]
    return low.call(key, make, arguments, shapes[1], ending.dtype)


def choose(matrix: Array, rows: int, machine: Machine) -> Tiling | Cut | None:
    """Return how blocks or numbers that are not zero are cut; None where the dense kernel is about as fast."""
    if 2 * np.count_nonzero(matrix) > matrix.size or rows < 1:
        return None
    blocks, numbers = cut_blocks(matrix, rows, machine), cut_numbers(matrix, rows, machine)
    cost = min(blocks[0], numbers[0])
    cut = blocks[1] if blocks[0] == cost else numbers[1]
    return cut if cost < _WORTH * _dense_cycles(matrix, rows, machine) else None


def _dense_cycles(matrix: Array, rows: int, machine: Machine) -> float:
    """Return the cycles of the dense kernel; with few rows, a large matrix takes as long as it takes to arrive."""
    inputs, outputs = matrix.shape
    best = best_tiling(rows, outputs, machine)
    steps = math.ceil(rows / best.rows) * cycles(best.rows, best.vectors)
    return max(best.panels * inputs * steps, arrival(4 * matrix.size))
