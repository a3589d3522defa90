"""Where windows of convolutions and pools look."""

import dataclasses
from collections.abc import Sequence

import onnx_ir

from whet.ir.values import attribute_ints, attribute_string

__all__ = ["Axis", "read_steps"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One direction in space."""

    size: int
    """Of the input."""
    result: int
    kernel: int
    stride: int
    dilation: int
    before: int
    """Elements of border in front."""

    @property
    def reach(self) -> int:
        """Return how many elements, with the border, are read for one."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def bare(self) -> bool:
        """Tell whether nothing outside is read."""
        return self.before == 0 and (self.result - 1) * self.stride + self.reach <= self.size


def read_steps(
    node: onnx_ir.Node, size: Sequence[int], kernel: Sequence[int], result: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return stride, dilation and border in front, for each direction in space.

    What is behind shows in the size of the result.
    """
    count = len(size)
    strides = attribute_ints(node, "strides", (1,) * count) or ()
    dilations = attribute_ints(node, "dilations", (1,) * count) or ()
    borders = attribute_ints(node, "pads", (0,) * 2 * count) or ()
    auto = attribute_string(node, "auto_pad", "NOTSET")
    found: list[tuple[int, int, int]] = []
    for axis in range(count):
        before = int(borders[axis])
        if auto.startswith("SAME"):
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((result[axis] - 1) * strides[axis] + reach - size[axis], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        elif auto == "VALID":
            before = 0
        found.append((int(strides[axis]), int(dilations[axis]), before))
    return found
