"""The geometry of sliding windows: how much padding, how many windows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: its size, the window on it, and the padding at both ends."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def extent(self) -> int:
        """The distance a window covers."""
        return (self.kernel - 1) * self.dilation + 1

    def count(self, *, ceil: bool) -> int:
        """Count the windows; one that starts behind the input and its left padding is left out."""
        room = self.size + self.before + self.after - self.extent
        if not ceil:
            return room // self.stride + 1
        count = math.ceil(room / self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.size + self.before else count

    def needed(self, count: int) -> int:
        """Compute the padding at the end that makes room for exactly ``count`` windows."""
        return (count - 1) * self.stride + self.extent - self.size - self.before


def axes_of(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[Axis]:
    """Put together the spatial axes; both ``SAME`` modes give ceil(size / stride) windows."""
    rank = len(sizes)
    steps = strides or [1] * rank
    spread = dilations or [1] * rank
    given = pads or [0] * (2 * rank)
    axes: list[Axis] = []
    for number, size in enumerate(sizes):
        before, after = given[number], given[rank + number]
        axis = Axis(size, kernel[number], steps[number], spread[number], before, after)
        if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            axis = _same(axis, upper=auto_pad == "SAME_UPPER")
        elif auto_pad == "VALID":
            axis = _padded(axis, 0, 0)
        axes.append(axis)
    return axes


def _same(axis: Axis, *, upper: bool) -> Axis:
    count = math.ceil(axis.size / axis.stride)
    total = max((count - 1) * axis.stride + axis.extent - axis.size, 0)
    less = total // 2
    return _padded(axis, less, total - less) if upper else _padded(axis, total - less, less)


def _padded(axis: Axis, before: int, after: int) -> Axis:
    return Axis(axis.size, axis.kernel, axis.stride, axis.dilation, before, after)
