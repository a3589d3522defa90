"""Products with a constant matrix whose zeros lie anywhere: vectors run over rows, what is zero is never read.

A task turns a tile of rows once, so that one input of all its rows is consecutive vectors. Then each number that is
not zero costs one product for each vector of rows, wherever it stands (Elsen et al., Fast Sparse ConvNets, 2020).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.turning import turn, turn_rows
from whet.backends.tvm.kernels.writing import Tile, function, scratch, tasks
from whet.backends.tvm.machine import Machine
from whet.ir.array import Array

__all__ = ["Cut", "Numbers", "cut_numbers", "gather_numbers", "scattered"]

_ROWS = 32
"""Rows of a tile: more and what is turned leaves the near cache, fewer and numbers are read too often."""
_FAR = 1 << 20
"""Bytes that a turned tile may take."""
_PLACE, _RESULT, _TURNED = 0.2, 4, 5
"""Measured: cycles of a number beside one for each vector, of an output's vector, and of an input's."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the work is cut."""

    vectors: int
    """Vectors of rows in a tile."""
    ways: int
    """Sums of one output that do not wait for each other."""
    lanes: int

    @property
    def height(self) -> int:
        """Return how many rows a tile has."""
        return self.vectors * self.lanes


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What is not zero in a matrix ``[inputs, outputs]``, output by output, each filled up to a multiple of ways."""

    starts: Array
    """Which step each output begins with, and the end; there are as many outputs as whole vectors have."""
    places: Array
    """Where the input of each number begins in the turned tile."""
    values: Array


def cut_numbers(matrix: Array, rows: int, machine: Machine) -> tuple[float, Cut]:
    """Return how the work is cut, and the cycles that it takes."""
    inputs, outputs = matrix.shape
    lanes = machine.lanes
    total = -(-rows // lanes)
    near = _FAR // (inputs * lanes * 4)
    vectors = max(min(_ROWS // lanes, total, near), 1)
    cut = Cut(vectors, max(4 // vectors, 1), lanes)
    counts = np.count_nonzero(matrix, axis=0)
    stored = int((-(-counts // cut.ways)).sum()) * cut.ways
    steps = stored * (total + _PLACE * -(-total // vectors))
    cost = steps + total * (_RESULT * outputs + _TURNED * inputs)
    return cost if near else math.inf, cut


def gather_numbers(matrix: Array, cut: Cut) -> Numbers:
    """Return the numbers that are not zero."""
    outputs, inputs = np.nonzero(matrix.T)
    total = -(-matrix.shape[1] // cut.lanes) * cut.lanes
    counts = np.bincount(outputs, minlength=total)
    steps = -(-counts // cut.ways)
    starts = np.concatenate([[0], np.cumsum(steps)])
    first = np.cumsum(counts) - counts
    at = starts[outputs] * cut.ways + np.arange(len(outputs)) - first[outputs]
    size = max(int(starts[-1]), 1) * cut.ways
    places, values = np.zeros(size, np.int32), np.zeros(size, np.float32)
    places[at] = inputs * cut.height
    values[at] = matrix[inputs, outputs]
    return Numbers(starts.astype(np.int32), places, values)


def scattered(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    cut: Cut,
    count: int,
    ending: Ending,
    threads: int,
) -> Any:
    """Return the kernel for ``count`` stored numbers: arguments x, values, places, starts, the ending's, y."""
    inputs, outputs = shapes[0][-1], shapes[1][-1]
    rows = math.prod(shapes[0][:-1])
    lanes, height = cut.lanes, cut.height
    tiles, groups = -(-rows // height), -(-outputs // lanes)
    parts = 1 if tiles >= 4 * threads else min(threads // math.gcd(tiles, threads), groups)
    own = -(-groups // parts)

    def body(x: Any, values: Any, places: Any, starts: Any, *rest: Any) -> None:
        *more, y = rest

        def tile(number: Expr, part: Expr, vectors: int) -> None:
            first = number * height
            turned = scratch(inputs * height)
            turn_rows((x, rows, inputs), (turned, height), (first, vectors), lanes)
            with T.serial(0, own) as i:
                group = part * own + i
                if groups % parts:
                    with T.If(group < groups), T.Then():
                        outputs_of(group, first, vectors, turned)
                else:
                    outputs_of(group, first, vectors, turned)

        def outputs_of(group: Expr, first: Expr, vectors: int, turned: Any) -> None:
            done, back = scratch(height * lanes), scratch(height * lanes)
            block = Tile(cut.ways, vectors, lanes)
            with T.serial(0, lanes) as j:
                begin = starts[group * lanes + j]
                sums = block.clear()
                with T.serial(0, starts[group * lanes + j + 1] - begin) as t:
                    for s in range(cut.ways):
                        at = (begin + t) * cut.ways + s
                        factor = tirx.Broadcast(values[at], lanes)
                        for v in range(vectors):
                            there = tirx.Ramp(places[at] + v * lanes, 1, lanes)
                            sums.put(s, v, sums.get(s, v) + factor * turned[there])
                for v in range(vectors):
                    total = sums.get(0, v)
                    for s in range(1, cut.ways):
                        total = total + sums.get(s, v)
                    T.buffer_store(done, total, [tirx.Ramp((v * lanes + j) * lanes, 1, lanes)])
            with T.serial(0, vectors) as v:
                base = v * lanes * lanes
                lines = lambda i: base + i * lanes  # noqa: E731
                turn((done, lines), (back, lines), lanes)

            def write(r: Expr, j: Expr) -> None:
                column = group * lanes + j
                place = (first + r) * outputs + column
                T.buffer_store(y, ending.apply(back[r * lanes + j], place, column, more), [place])

            with T.serial(0, tirx.min(vectors * lanes, rows - first)) as r:
                _columns(outputs, lanes, group, lambda j: write(r, j))

        with tasks(tiles * parts, rows * count) as task:
            number, part = tirx.floordiv(task, parts), tirx.floormod(task, parts)
            left = -(-(rows - (tiles - 1) * height) // lanes)  # vectors of the last tile
            if left == cut.vectors:
                tile(number, part, cut.vectors)
            else:
                with T.If(number < tiles - 1):
                    with T.Then():
                        tile(number, part, cut.vectors)
                    with T.Else():
                        tile(number, part, left)

    arguments = [
        (shapes[0], "float32"),
        ((count,), "float32"),
        ((count,), "int32"),
        ((groups * lanes + 1,), "int32"),
        *ending.arguments(),
    ]
    return function("scattered", [*arguments, (shapes[1], ending.dtype)], body)


def _columns(outputs: int, lanes: int, group: Expr, write: Callable[[Expr], None]) -> None:
    """Write for the columns of a group that exist."""

    def vector() -> None:
        with T.vectorized(0, lanes) as j:
            write(j)

    if outputs % lanes == 0:
        vector()
        return
    with T.If((group + 1) * lanes <= outputs):
        with T.Then():
            vector()
        with T.Else(), T.serial(0, outputs % lanes) as j:
            write(j)
