"""A product with a constant matrix."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.product import chunks, dense, pack
from whet.backends.tvm.kernels.writing import Tiling, best_tiling
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule
from whet.backends.tvm.works.work import Packing, tiles
from whet.ir.array import Array

__all__ = ["Dense"]

_DEPTHS = (0, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Dense(Packing):
    """Rows times a packed matrix.

    A schedule has ``rows`` and ``vectors`` of a tile, ``parts`` that the rows go in, the ``depth`` after which sums
    leave their registers so that a part of the panel stays near (0: at the end), steps that are ``unrolled``, and
    whether threads divide panels (``turned``) or rows.
    """

    name: ClassVar[str] = "dense"
    shape: tuple[int, ...]
    outputs: int
    ending: Ending
    machine: Machine

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return math.prod(self.shape[:-1])

    @property
    def key(self) -> str:
        """Return sizes and ending."""
        return f"dense {self.rows}x{self.shape[-1]}x{self.outputs}{self.ending}"

    def tiling(self, schedule: Schedule) -> Tiling:
        """Return how the outputs are cut."""
        lanes = self.machine.lanes
        vectors = schedule["vectors"]
        panels = -(-self.outputs // (lanes * vectors))
        return Tiling(schedule["rows"], vectors, lanes, panels)

    def usual(self) -> Schedule:
        """Return what takes the fewest cycles, in parts that stay near."""
        best = best_tiling(self.rows, self.outputs, self.machine)
        parts = chunks(self.rows, self.shape[-1], best, self.machine.threads)
        shape = {"rows": best.rows, "vectors": best.vectors}
        return {**shape, "parts": parts, "depth": 0, "unrolled": 1, "turned": 0}

    def groups(self) -> Sequence[Sequence[Schedule]]:
        """Return tiles, then parts with the order of threads, then depths, then how many steps are unrolled."""
        threads, depth = self.machine.threads, self.shape[-1]
        shapes = tiles(self.rows, self.outputs, self.machine)
        smallest = min(rows for rows, _ in shapes)
        most = -(-self.rows // smallest)
        counts = {1, threads, 2 * threads, 4 * threads, 8 * threads, 16 * threads}
        parts = sorted(n for n in counts if n <= most)
        return [
            [{"rows": rows, "vectors": vectors} for rows, vectors in shapes],
            [{"parts": n, "turned": turned} for n in parts for turned in (0, 1)],
            [{"depth": n} for n in _DEPTHS if n < depth],
            [{"unrolled": n} for n in (1, 2, 4) if depth % n == 0],
        ]

    def function(self, schedule: Schedule) -> Any:
        """Return the kernel."""
        shapes = (self.shape, (*self.shape[:-1], self.outputs))
        return dense(shapes, self.outputs, self.tiling(schedule), self.ending, schedule)

    def pack(self, weights: Array, schedule: Schedule) -> Array:
        """Return the matrix, panel by panel."""
        return pack(weights, self.tiling(schedule))

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return those of rows and matrix."""
        return self.shape, (self.shape[-1], self.outputs)

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        """Return its shape and type."""
        return (*self.shape[:-1], self.outputs), self.ending.dtype
