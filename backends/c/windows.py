"""Where a window looks: sizes, strides and pads of convolutions and pools, and the loops over what is inside."""

import dataclasses
from collections.abc import Sequence

import onnx_ir

from whet.backends import windows
from whet.backends.c.registry import Decline
from whet.ir.values import attribute_int, attribute_ints

__all__ = ["Axis", "Window", "loop", "read_window"]


class Axis(windows.Axis):
    """One direction in space, as loops."""

    def taps(self, o: str, k: str, start: str) -> str:
        """Return declarations: where window ``o`` starts, and the range of ``k`` that lies inside."""
        begin = _times(o, self.stride) + (f" - {self.before}" if self.before else "")
        lines = [f"const int {start} = {begin};"]
        if not self.bare:
            lines += [
                f"int {k}0 = 0, {k}1 = {self.kernel};",
                f"while ({start} + {_times(f'{k}0', self.dilation)} < 0) {{\n++{k}0;\n}}",
                f"while ({k}1 > {k}0 && {start} + {_times(f'({k}1 - 1)', self.dilation)} >= {self.size}) {{",
                f"--{k}1;",
                "}",
            ]
        return "\n".join(lines)

    def each(self, k: str) -> str:
        """Return the head of the loop over the taps inside."""
        if self.bare:
            return f"for (int {k} = 0; {k} < {self.kernel}; ++{k}) {{"
        return f"for (int {k} = {k}0; {k} < {k}1; ++{k}) {{"

    def first(self, k: str) -> str:
        """Return the first tap inside."""
        return "0" if self.bare else f"{k}0"

    def count(self, k: str) -> str:
        """Return how many taps are inside."""
        return str(self.kernel) if self.bare else f"({k}1 - {k}0)"


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows and columns; what has one direction only has one row."""

    batch: int
    rows: Axis
    columns: Axis
    channels: int

    @property
    def opening(self) -> str:
        """Return the loops over images and windows, with the range of taps of each."""
        return "\n".join(
            [
                loop("n", self.batch),
                loop("oy", self.rows.result),
                self.rows.taps("oy", "ky", "top"),
                loop("ox", self.columns.result),
                self.columns.taps("ox", "kx", "left"),
            ]
        )

    def at(self, ky: str, kx: str) -> str:
        """Return the number of the pixel under a tap."""
        y = _sum("top", ky, self.rows.dilation)
        x = _sum("left", kx, self.columns.dilation)
        return f"((n * {self.rows.size} + {y}) * {self.columns.size} + {x})"

    @property
    def pixel(self) -> str:
        """Return the number of the pixel of the result."""
        return f"((n * {self.rows.result} + oy) * {self.columns.result} + ox)"


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{name} * {factor}"


def _sum(start: str, k: str, dilation: int) -> str:
    if k == "0":
        return start
    return f"{start} + {k}" if dilation == 1 else f"{start} + {k} * {dilation}"


def loop(name: str, count: int) -> str:
    """Return the head of a loop; one that runs once is a block."""
    if count == 1:
        return f"{{\nconst int {name} = 0;"
    return f"for (int {name} = 0; {name} < {count}; ++{name}) {{"


def read_window(
    node: onnx_ir.Node, shape: Sequence[int], result: Sequence[int], kernel: Sequence[int]
) -> Window:
    """Read strides, pads and dilations of a node that takes ``shape`` to ``result``, channels second."""
    space = len(shape) - 2
    if space not in (1, 2):
        raise Decline(f"{space} directions in space, only 1 and 2 are supported")
    if any(p < 0 for p in attribute_ints(node, "pads", ()) or ()):
        raise Decline(
            f"pads are {list(attribute_ints(node, 'pads', ()) or ())}, expected 0 or more"
        )
    if attribute_int(node, "ceil_mode", 0) not in (0, 1):
        raise Decline("ceil_mode is neither 0 nor 1")
    moves = windows.read_steps(node, shape[2:], kernel, result[2:])
    axes = [Axis(shape[k + 2], result[k + 2], kernel[k], *moves[k]) for k in range(space)]
    if space == 1:
        axes.insert(0, Axis(1, 1, 1, 1, 1, 0))
    return Window(shape[0], axes[0], axes[1], shape[1])
