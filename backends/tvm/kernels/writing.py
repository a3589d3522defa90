"""What kernels are written with: functions of flat buffers, tiles of sums in registers, loops over tasks."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from whet.backends.tvm.api import Expr, IRBuilder, T, tirx
from whet.backends.tvm.machine import Machine

__all__ = [
    "Sums",
    "Tile",
    "Tiling",
    "best_tiling",
    "cycles",
    "each",
    "function",
    "scratch",
    "tasks",
    "up",
]

_SMALL = 1 << 15
"""Multiplications that are done before a second thread has started."""


def up(number: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-number // step) * step


def function(
    name: str, arguments: Sequence[tuple[Sequence[int], str]], body: Callable[..., None]
) -> Any:
    """Return the function whose ``body`` is given each argument, shape and type, as a flat buffer."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        given = [
            T.arg(f"b{k}", T.buffer(tuple(shape), dtype, layout=None))
            for k, (shape, dtype) in enumerate(arguments)
        ]
        flat = [
            T.decl_buffer((math.prod(shape),), dtype, data=buffer.data, layout=None)
            for buffer, (shape, dtype) in zip(given, arguments, strict=True)
        ]
        body(*flat)
    return builder.get()


def scratch(size: int, dtype: str = "float32") -> Any:
    """Return memory of the loop that is being written; below a kilobyte it may stay in registers."""
    return T.alloc_buffer((size,), dtype, layout=None)


def tasks(count: int, work: float) -> Any:
    """Return a loop over independent tasks, on all threads if the work is worth it."""
    return T.parallel(0, count) if count > 1 and work > _SMALL else T.serial(0, count)


def each(count: int, lanes: int, body: Callable[[Expr], None]) -> None:
    """Write ``body`` for the numbers below ``count``: in vectors, the rest one by one."""
    whole = count // lanes
    if whole:
        with T.serial(0, whole) as i, T.vectorized(0, lanes) as j:
            body(i * lanes + j)
    if count % lanes:
        with T.serial(0, count % lanes) as j:
            body(whole * lanes + j)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Sums of ``rows`` times ``vectors`` that stay in registers."""

    rows: int
    vectors: int
    lanes: int
    dtype: str = "float32"

    def clear(self) -> "Sums":
        """Return the sums, zero."""
        sums = Sums(self)
        zero = tirx.Broadcast(tirx.const(0, self.dtype), self.lanes)
        for r in range(self.rows):
            for v in range(self.vectors):
                sums.put(r, v, zero)
        return sums

    def load(self, kept: Any, start: Expr) -> "Sums":
        """Return the sums that :meth:`store` left."""
        sums = Sums(self)
        for r in range(self.rows):
            for v in range(self.vectors):
                place = start + (r * self.vectors + v) * self.lanes
                sums.put(r, v, kept[tirx.Ramp(place, 1, self.lanes)])
        return sums

    def store(self, sums: "Sums", kept: Any, start: Expr) -> None:
        """Leave the sums in memory."""
        sums.leave(kept, lambda r, v: start + (r * self.vectors + v) * self.lanes)

    def add(self, sums: "Sums", left: Callable[[int], Expr], right: Callable[[int], Expr]) -> None:
        """Add the products of one element for each row with vectors of elements."""
        vectors = [right(v) for v in range(self.vectors)]
        for r in range(self.rows):
            factor = tirx.Broadcast(left(r), self.lanes)
            for v, vector in enumerate(vectors):
                sums.put(r, v, sums.get(r, v) + factor * vector)

    def finish(
        self, sums: "Sums", outputs: int, panel: Expr, write: Callable[[Expr, Expr, Expr], None]
    ) -> None:
        """Write ``write(row, column, sum)`` for the columns of a panel that exist.

        The sums leave their registers first: so this is a loop and not a line for each of them.
        """
        width = self.vectors * self.lanes
        left = scratch(self.rows * width, self.dtype)
        sums.leave(left, lambda r, v: r * width + v * self.lanes)
        with T.serial(0, self.rows) as r, T.serial(0, self.vectors) as v:
            base = (r * self.vectors + v) * self.lanes
            start = panel * width + v * self.lanes
            if outputs % width == 0:
                self._vector(lambda j: write(r, start + j, left[base + j]))
                return
            with T.If(start + self.lanes <= outputs):
                with T.Then():
                    self._vector(lambda j: write(r, start + j, left[base + j]))
                with T.Else():
                    if outputs % self.lanes == 0:
                        T.evaluate(0)
                    else:
                        rest = T.serial(0, outputs % self.lanes)
                        with T.If(start < outputs), T.Then(), rest as j:
                            write(r, start + j, left[base + j])

    def _vector(self, write: Callable[[Expr], None]) -> None:
        with T.vectorized(0, self.lanes) as j:
            write(j)


class Sums:
    """The sums of a tile, as long as a loop over steps runs.

    Each row is memory of its own: TVM asks for more than a kilobyte while the kernel runs, and LLVM keeps in registers
    only what lies in its own frame.
    """

    def __init__(self, tile: Tile) -> None:
        """Take the memory."""
        self._tile = tile
        width = tile.vectors * tile.lanes
        self._rows = [scratch(width, tile.dtype) for _ in range(tile.rows)]

    def get(self, row: int, vector: int) -> Expr:
        """Return a vector."""
        return self._rows[row][self._at(vector)]

    def put(self, row: int, vector: int, value: Expr) -> None:
        """Write a vector."""
        T.buffer_store(self._rows[row], value, [self._at(vector)])

    def leave(self, to: Any, place: Callable[[int, int], Expr]) -> None:
        """Store all vectors in other memory, ``place(row, vector)`` being where."""
        lanes = self._tile.lanes
        for r in range(self._tile.rows):
            for v in range(self._tile.vectors):
                T.buffer_store(to, self.get(r, v), [tirx.Ramp(place(r, v), 1, lanes)])

    def _at(self, vector: int) -> Expr:
        return tirx.Ramp(vector * self._tile.lanes, 1, self._tile.lanes)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a product is cut."""

    rows: int
    vectors: int
    lanes: int
    panels: int
    """Groups of ``vectors`` that cover all outputs."""

    @property
    def width(self) -> int:
        """Return how many outputs a panel has."""
        return self.vectors * self.lanes

    def tile(self, rows: int, dtype: str = "float32") -> Tile:
        """Return a tile of so many rows."""
        return Tile(rows, self.vectors, self.lanes, dtype)


def cycles(rows: int, vectors: int) -> float:
    """Return the cycles of one step: two products or loads at a time, sums that wait four cycles for themselves."""
    return max(rows * vectors / 2, (rows + vectors) / 2, 4) if rows else 0


def best_tiling(rows: int, outputs: int, machine: Machine, even: bool = True) -> Tiling:
    """Return the tiling with the fewest cycles; rows may be split evenly unless they come in lines (``even``)."""
    lanes = machine.lanes
    total = -(-outputs // lanes)
    found: list[tuple[float, int, int]] = []
    for vectors in range(1, min(total, 8) + 1):
        most = min((machine.registers - vectors - 1) // vectors, rows)
        if most < 1:
            continue
        tall = -(-rows // -(-rows // most)) if even else most
        panels = -(-total // vectors)
        cost = panels * (rows // tall * cycles(tall, vectors) + cycles(rows % tall, vectors))
        found.append((cost, vectors, tall))
    _, vectors, tall = min(found)
    return Tiling(tall, vectors, lanes, -(-total // vectors))
