"""A convolution with one filter for each channel."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.convolution import (
    Window,
    depthwise,
    lines_of,
    pack_depthwise,
)
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule
from whet.backends.tvm.works.work import Packing
from whet.ir.array import Array

__all__ = ["Depthwise"]

_WIDTHS = (4, 7, 8, 14, 16, 28)


@dataclasses.dataclass(frozen=True)
class Depthwise(Packing):
    """A window that slides over each channel by itself, channels last.

    A schedule has the ``wide`` pixels of a tile, the ``lines`` of a task, and whether lines or channels change first
    (``turned``).
    """

    name: ClassVar[str] = "depthwise"
    window: Window
    ending: Ending
    machine: Machine

    @property
    def key(self) -> str:
        """Return sizes, steps, borders and ending."""
        return f"depthwise {self.window}{self.ending}"

    def usual(self) -> Schedule:
        """Return tiles of eight pixels, and lines that stay near."""
        lines = lines_of(dataclasses.replace(self.window, groups=1), self.machine)
        return {"wide": min(self.window.x.result, 8), "lines": lines, "turned": 0}

    def groups(self) -> Sequence[Sequence[Schedule]]:
        """Return widths, then lines with the order of loops."""
        w = self.window
        most = min(w.x.result, self.machine.registers - 4)
        lines = [n for n in range(1, w.y.result + 1) if w.y.result % n == 0]
        return [
            [{"wide": n} for n in _WIDTHS if n <= most],
            [{"lines": n, "turned": turned} for n in lines for turned in (0, 1)],
        ]

    def function(self, schedule: Schedule) -> Any:
        """Return the kernel."""
        return depthwise(self.window, self.ending, self.machine, schedule)

    def pack(self, weights: Array, schedule: Schedule) -> Array:
        """Return weights ``[channels, 1, ky, kx]``, channels last."""
        return pack_depthwise(weights, self.machine.lanes)

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return those of pixels and weights."""
        w = self.window
        return w.shapes()[0], (w.outputs, 1, w.y.kernel, w.x.kernel)

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        """Return its shape and type."""
        return self.window.shapes()[1], self.ending.dtype
