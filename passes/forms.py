"""Read and write operators whose attributes became inputs at some operator-set version."""

import dataclasses
from collections.abc import Iterable, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_ints, constant_ints, dimensions, rank
from whet.passes.proposal import Builder

__all__ = [
    "INT64_MAX",
    "Range",
    "axes_node",
    "axes_of",
    "from_zero",
    "integers_of",
    "known_rank",
    "opset_of",
    "ranges_of",
    "same_shape",
    "slice_node",
]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def opset_of(node: onnx_ir.Node) -> int:
    """Return the version of the standard operator set in the node's graph."""
    if node.graph is None:
        raise Mismatch("the node is in no graph")
    return node.graph.opset_imports.get("", 1)


def integers_of(node: onnx_ir.Node, name: str, at: int) -> tuple[int, ...] | None:
    """Return the integers of attribute ``name`` or of input number ``at``; None if neither is given.

    Declines where the input is computed at run time.
    """
    if name in node.attributes:
        return attribute_ints(node, name)
    value = node.inputs[at] if at < len(node.inputs) else None
    if value is None:
        return None
    found = constant_ints(value)
    if found is None:
        raise Mismatch(f"'{name}' of {node.op_type} '{node.name}' is computed at run time")
    return found


def axes_of(node: onnx_ir.Node) -> tuple[int, ...] | None:
    """Return the axes of a Squeeze, Unsqueeze or Reduce as they are written; None if not given."""
    return integers_of(node, "axes", 1)


def known_rank(value: onnx_ir.Value | None) -> int:
    """Return the number of dimensions, or decline."""
    found = rank(value)
    if found is None:
        raise Mismatch(f"the rank of '{None if value is None else value.name}' is not known")
    return found


def from_zero(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Count axes from the front: ``-1`` of 3 is 2. Declines an axis outside the rank, or one given twice."""
    found = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if any(not 0 <= axis < rank for axis in found) or len(set(found)) != len(found):
        raise Mismatch(f"axes {tuple(axes)} do not fit rank {rank}")
    return found


def same_shape(one: onnx_ir.Value | None, other: onnx_ir.Value | None) -> bool:
    """Tell whether both shapes are known, down to the names of their symbols, and equal."""
    sizes = dimensions(one)
    return sizes is not None and None not in sizes and sizes == dimensions(other)


def axes_node(
    build: Builder, near: onnx_ir.Node, op_type: str, x: onnx_ir.Value, axes: Sequence[int]
) -> onnx_ir.Value:
    """Make a Squeeze or Unsqueeze in the form of the graph's opset."""
    if opset_of(near) < 13:
        return build.op(op_type, x, attributes={"axes": tuple(axes)})
    return build.op(op_type, x, build.ints(*axes))


@dataclasses.dataclass(frozen=True)
class Range:
    """What a Slice takes of one axis."""

    axis: int
    start: int
    end: int
    step: int = 1

    @property
    def is_full(self) -> bool:
        """Tell whether it takes everything whatever the size is."""
        return self.start == 0 and self.step == 1 and self.end >= INT32_MAX


def ranges_of(node: onnx_ir.Node) -> tuple[Range, ...]:
    """Return what a Slice takes, in its own order; declines what is computed at run time."""
    starts, ends = integers_of(node, "starts", 1), integers_of(node, "ends", 2)
    if starts is None or ends is None:
        raise Mismatch("starts or ends are missing")
    axes = integers_of(node, "axes", 3) or tuple(range(len(starts)))
    steps = integers_of(node, "steps", 4) or (1,) * len(starts)
    return tuple(Range(*item) for item in zip(axes, starts, ends, steps, strict=True))


def slice_node(
    build: Builder, near: onnx_ir.Node, x: onnx_ir.Value, ranges: Sequence[Range]
) -> onnx_ir.Value:
    """Make a Slice in the form of the graph's opset."""
    axes, steps = [r.axis for r in ranges], [r.step for r in ranges]
    starts, ends = [r.start for r in ranges], [r.end for r in ranges]
    if opset_of(near) < 10:
        return build.op("Slice", x, attributes={"axes": axes, "starts": starts, "ends": ends})
    lists = [build.ints(*numbers) for numbers in (starts, ends, axes, steps)]
    return build.op("Slice", x, *lists)
