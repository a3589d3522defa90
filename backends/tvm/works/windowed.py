"""A convolution with fixed weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.convolution import (
    Window,
    convolution,
    lines_of,
    pack_window,
    window_tiling,
)
from whet.backends.tvm.kernels.writing import Tiling
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule
from whet.backends.tvm.works.work import Packing
from whet.ir.array import Array

__all__ = ["Windowed"]

_MOST = 6
"""Vectors of a panel; lines of a tile."""


@dataclasses.dataclass(frozen=True)
class Windowed(Packing):
    """A window that slides over pixels, channels last.

    A schedule has the ``wide`` and ``high`` pixels of a tile, the ``vectors`` of channels, the ``lines`` of a task,
    whether a tile's lines or a panel's channels change first (``turned``), and whether the window's columns are
    written out (``unrolled``).
    """

    name: ClassVar[str] = "convolution"
    window: Window
    ending: Ending
    machine: Machine

    @property
    def own(self) -> int:
        """Return the outputs of a group."""
        return self.window.outputs // self.window.groups

    @property
    def key(self) -> str:
        """Return sizes, steps, borders and ending."""
        w = self.window
        axes = " ".join(
            f"{a.size}/{a.result} k{a.kernel} s{a.stride} d{a.dilation} p{a.before}"
            for a in (w.y, w.x)
        )
        groups = f" groups {w.groups}" if w.groups > 1 else ""
        return f"convolution {w.batch}x{w.inputs}x{w.outputs} {axes}{groups}{self.ending}"

    def tiling(self, schedule: Schedule) -> Tiling:
        """Return how pixels and channels are cut."""
        lanes, vectors = self.machine.lanes, schedule["vectors"]
        panels = -(-self.own // (lanes * vectors))
        return Tiling(schedule["wide"] * schedule["high"], vectors, lanes, panels)

    def usual(self) -> Schedule:
        """Return what takes the fewest cycles."""
        best = window_tiling(self.window, self.machine)
        lines = lines_of(self.window, self.machine)
        wide = min(best.rows, self.window.x.result)
        high = max(1, best.rows // wide) if wide == self.window.x.result else 1
        tile = {"wide": wide, "high": min(high, lines), "vectors": best.vectors}
        return {**tile, "lines": lines, "turned": 0, "unrolled": 0}

    def groups(self) -> Sequence[Sequence[Schedule]]:
        """Return tiles, then lines with the order of loops, then whether the window is written out."""
        w = self.window
        lines = [n for n in range(1, w.y.result + 1) if w.y.result % n == 0]
        return [
            [{"wide": x, "high": y, "vectors": v} for x, y, v in self._tiles()],
            [{"lines": n, "turned": turned} for n in lines for turned in (0, 1)],
            [{"unrolled": n} for n in ((0, 1) if w.x.kernel > 1 else (0,))],
        ]

    def _tiles(self) -> list[tuple[int, int, int]]:
        """Return columns, lines and vectors of tiles: of each width of a panel those that keep the most sums."""
        w, total = self.window, -(-self.own // self.machine.lanes)
        found: list[tuple[int, int, int]] = []
        for vectors in range(1, min(total, _MOST) + 1):
            most = (self.machine.registers - vectors) // vectors
            shapes: list[tuple[float, int, int]] = []
            for high in range(1, min(_MOST, w.y.result) + 1):
                top = min(most // high, w.x.result)
                if top < 1:
                    break
                even = -(-w.x.result // -(-w.x.result // top))
                tiles = -(-w.x.result // even) * -(-w.y.result // high)
                shapes.append((tiles * max(even * high * vectors, 8), even, high))
            found += [(wide, high, vectors) for _, wide, high in sorted(shapes)[:3]]
        return found

    def function(self, schedule: Schedule) -> Any:
        """Return the kernel."""
        return convolution(self.window, self.tiling(schedule), self.ending, self.machine, schedule)

    def pack(self, weights: Array, schedule: Schedule) -> Array:
        """Return weights ``[outputs, depth, ky, kx]``, panel by panel."""
        return pack_window(weights, self.window.groups, self.tiling(schedule))

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return those of pixels and weights."""
        w = self.window
        return w.shapes()[0], (w.outputs, w.depth, w.y.kernel, w.x.kernel)

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        """Return its shape and type."""
        return self.window.shapes()[1], self.ending.dtype
