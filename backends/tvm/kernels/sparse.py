"""Products with a constant matrix that is mostly zeros: only blocks that hold something are stored and multiplied.

A block is one input times the outputs of a panel. Which blocks there are is known when the model is compiled, so they
are chosen as wide as pays: two vectors that are often zero together share a panel. A tile of rows is turned first, so
that what a block multiplies lies together.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.writing import Tiling, cycles, function, scratch, tasks, up
from whet.backends.tvm.machine import Machine, arrival
from whet.ir.array import Array

__all__ = ["Blocks", "cut_blocks", "gather_blocks", "sparse"]

_STEP, _TURNED = 1.2, 1
"""Measured: cycles of a step over those of :func:`cycles`, and what turning one number takes."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a matrix ``[inputs, outputs]``, panel by panel."""

    tiling: Tiling
    starts: Array = dataclasses.field(compare=False)
    """Where the blocks of each panel begin, and the end."""
    places: Array = dataclasses.field(compare=False)
    """The input of each block."""
    values: Array = dataclasses.field(compare=False)
    """``[blocks, width]``."""

    @property
    def count(self) -> int:
        """Return how many blocks there are."""
        return len(self.places)


def cut_blocks(matrix: Array, rows: int, machine: Machine) -> tuple[float, Tiling]:
    """Return the tiling that takes the fewest cycles, and them."""
    filled = _filled(matrix, machine.lanes)
    inputs, total = filled.shape
    found: list[tuple[float, int, int]] = []
    for vectors in (1, 2, 4):
        if total % vectors:
            continue
        steps = int(np.any(filled.reshape(inputs, -1, vectors), axis=2).sum())
        most = min((machine.registers - vectors - 1) // vectors, rows)
        tall = -(-rows // -(-rows // most))
        passes = math.ceil(rows / tall) * cycles(tall, vectors)
        stored = 4 * steps * vectors * machine.lanes
        found.append((max(_STEP * steps * passes, arrival(stored)), vectors, tall))
    cost, vectors, tall = min(found)
    tiling = Tiling(tall, vectors, machine.lanes, total // vectors)
    return cost + _TURNED * rows * inputs, tiling


def gather_blocks(matrix: Array, tiling: Tiling) -> Blocks:
    """Return the blocks that hold something."""
    inputs, outputs = matrix.shape
    filled = _filled(matrix, tiling.lanes)
    there: Array = np.any(filled.reshape(inputs, tiling.panels, tiling.vectors), axis=2).T
    there[~np.any(there, axis=1), 0] = True  # a panel of zeros keeps one block
    panels, places = np.nonzero(there)
    starts = np.searchsorted(panels, np.arange(tiling.panels + 1))
    padded = np.pad(matrix, ((0, 0), (0, tiling.panels * tiling.width - outputs)))
    values = padded.reshape(inputs, tiling.panels, tiling.width)[places, panels]
    return Blocks(
        tiling, starts.astype(np.int32), places.astype(np.int32), values.astype(np.float32)
    )


def _filled(matrix: Array, lanes: int) -> Array:
    """Return which vectors of outputs hold something, for each input."""
    inputs, outputs = matrix.shape
    padded = np.pad(matrix != 0, ((0, 0), (0, up(outputs, lanes) - outputs)))
    filled: Array = np.any(padded.reshape(inputs, -1, lanes), axis=2)
    return filled


def sparse(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    blocks: tuple[Tiling, int],
    ending: Ending,
    threads: int,
) -> Any:
    """Return the kernel for a tiling and a number of blocks: arguments x, values, places, starts, the ending's, y."""
    tiling, count = blocks
    inputs, outputs = shapes[0][-1], shapes[1][-1]
    rows = math.prod(shapes[0][:-1])
    tiles = -(-rows // tiling.rows)
    parts = threads if tiling.panels % threads == 0 and tiles % threads else 1
    own = tiling.panels // parts

    def body(x: Any, values: Any, places: Any, starts: Any, *rest: Any) -> None:
        *more, y = rest

        def tile(number: Expr, part: Expr, height: int) -> None:
            first = number * tiling.rows
            turned = scratch(inputs * height)
            with T.serial(0, inputs) as k, T.serial(0, height) as r:
                T.buffer_store(turned, x[(first + r) * inputs + k], [k * height + r])
            with T.serial(0, own) as i:
                panel = part * own + i
                block = tiling.tile(height)
                sums = block.clear()
                begin = starts[panel]
                with T.serial(0, starts[panel + 1] - begin) as t:
                    at = places[begin + t] * height
                    base = (begin + t) * tiling.width
                    block.add(
                        sums,
                        lambda r: turned[at + r],
                        lambda v: values[tirx.Ramp(base + v * tiling.lanes, 1, tiling.lanes)],
                    )

                def write(r: Expr, column: Expr, value: Expr) -> None:
                    place = (first + r) * outputs + column
                    T.buffer_store(y, ending.apply(value, place, column, more), [place])

                block.finish(sums, outputs, panel, write)

        with tasks(tiles * parts, rows * count * tiling.width) as task:
            number, part = tirx.floordiv(task, parts), tirx.floormod(task, parts)
            if rows % tiling.rows == 0:
                tile(number, part, tiling.rows)
            else:
                with T.If(number < tiles - 1):
                    with T.Then():
                        tile(number, part, tiling.rows)
                    with T.Else():
                        tile(number, part, rows % tiling.rows)

    arguments = [
        (shapes[0], "float32"),
        ((count, tiling.width), "float32"),
        ((count,), "int32"),
        ((tiling.panels + 1,), "int32"),
        *ending.arguments(),
    ]
    return function("sparse", [*arguments, (shapes[1], ending.dtype)], body)
