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
from whet.backends.tvm.kernels.writing import Tiling, best_tiling, cycles, function, scratch, tasks
from whet.backends.tvm.machine import Machine
from whet.ir.array import Array

__all__ = ["Blocks", "find_blocks", "sparse"]

_WORTH = 0.7
"""Share of the dense kernel's cycles below which blocks are used."""


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


def find_blocks(matrix: Array, rows: int, machine: Machine) -> Blocks | None:
    """Return the blocks that take the fewest cycles; None where the dense kernel is about as fast."""
    inputs, outputs = matrix.shape
    lanes = machine.lanes
    if rows < 2 or np.count_nonzero(matrix) > 0.5 * matrix.size:
        return None
    total = -(-outputs // lanes)
    padded = np.zeros((inputs, total * lanes), np.float32)
    padded[:, :outputs] = matrix
    filled: Array = np.any(padded.reshape(inputs, total, lanes) != 0, axis=2)
    plain = best_tiling(rows, outputs, machine)
    dense = plain.panels * inputs * math.ceil(rows / plain.rows) * cycles(plain.rows, plain.vectors)
    found: list[tuple[float, int, int]] = []
    for vectors in (1, 2, 4):
        if total % vectors:
            continue
        steps = int(np.any(filled.reshape(inputs, -1, vectors), axis=2).sum())
        most = min((machine.registers - vectors - 1) // vectors, rows)
        tall = -(-rows // -(-rows // most))
        found.append((steps * math.ceil(rows / tall) * cycles(tall, vectors), vectors, tall))
    cost, vectors, tall = min(found)
    if cost > _WORTH * dense:
        return None
    tiling = Tiling(tall, vectors, lanes, total // vectors)
    return _blocks(padded, filled, tiling)


def _blocks(padded: Array, filled: Array, tiling: Tiling) -> Blocks:
    inputs = padded.shape[0]
    there: Array = np.any(filled.reshape(inputs, tiling.panels, tiling.vectors), axis=2).T
    there[~np.any(there, axis=1), 0] = True  # a panel of zeros keeps one block
    panels, places = np.nonzero(there)
    starts = np.searchsorted(panels, np.arange(tiling.panels + 1))
    values = padded.reshape(inputs, tiling.panels, tiling.width)[places, panels]
    return Blocks(tiling, starts.astype(np.int32), places.astype(np.int32), values)


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
