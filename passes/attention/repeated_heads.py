"""Recognize heads that are repeated, one after the other, for groups of queries."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, attribute_ints, constant, constant_ints, dimensions, is_op
from whet.passes.attention.last_axis import without_new_axis
from whet.passes.proposal import Builder

__all__ = ["Repeat", "read_repeat"]

_Dims = tuple[int | str | None, ...]
_AS_A_WHOLE = "repeats the heads as a whole: [a, b, a, b], not [a, a, b, b]"


@dataclasses.dataclass(frozen=True)
class Repeat:
    """A value in which every head of another one comes ``times`` in a row: ``[a, b]`` is ``[a, a, b, b]``."""

    times: int
    nodes: tuple[onnx_ir.Node, ...]
    once: Callable[[Builder], onnx_ir.Value]
    """Return the value with every head once."""


def read_repeat(value: onnx_ir.Value, axis: int) -> Repeat | None:
    """Return how heads along ``axis`` are repeated; None if they are not.

    Raises Mismatch where they are repeated in another order: ``[a, b, a, b]`` gives other heads to each query.
    """
    node = value.producer()
    if node is None or not is_op(node, node.op_type):
        return None
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node, axis)


def _through_transpose(node: onnx_ir.Node, axis: int) -> Repeat | None:
    order = attribute_ints(node, "perm")
    inner = None if order is None else read_repeat(_operand(node), order[axis])
    if inner is None:
        return None
    return _behind(node, inner)


def _through_rotation(node: onnx_ir.Node, axis: int) -> Repeat | None:
    """The angles are the same for all heads."""
    inner = read_repeat(_operand(node), axis)
    return None if inner is None or axis != 1 else _behind(node, inner)


def _behind(node: onnx_ir.Node, inner: Repeat) -> Repeat:
    def once(build: Builder) -> onnx_ir.Value:
        attributes = dict(node.attributes)
        return build.op(node.op_type, inner.once(build), *node.inputs[1:], attributes=attributes)

    return Repeat(inner.times, (node, *inner.nodes), once)


def _gathered(node: onnx_ir.Node, axis: int) -> Repeat | None:
    """Read ``Gather(x, [0, 0, 1, 1])``."""
    x, places = _operand(node), constant(node.inputs[1])
    sizes = dimensions(x) or ()
    if not sizes or attribute_int(node, "axis", 0) % len(sizes) != axis or places is None:
        return None
    heads = sizes[axis]
    if places.ndim != 1 or not isinstance(heads, int) or heads == 0 or len(places) <= heads:
        return None
    times = len(places) // heads
    if not np.array_equal(np.mod(places, heads), np.repeat(np.arange(heads), times)):
        raise Mismatch(
            f"'{node.name}' gathers heads {places.tolist()}, not each {times} times in a row"
        )
    return Repeat(times, (node,), lambda _: x)


def _copied(node: onnx_ir.Node, axis: int) -> Repeat | None:
    """Read an Expand, Tile or Concat that copies along the axis of the heads itself."""
    copy = _copy_of(node)
    if copy is None or copy.axis != axis:
        return None
    if copy.before[axis] != 1:
        raise Mismatch(f"'{node.name}' {_AS_A_WHOLE}")
    return Repeat(copy.times, (node,), lambda _: copy.x)


def _merged(node: onnx_ir.Node, axis: int) -> Repeat | None:
    """Read ``Reshape(Expand(Unsqueeze(x)))``: copies along an axis of their own, which joins that of the heads."""
    maker = _operand(node).producer()
    copy = None if maker is None else _copy_of(maker)
    if maker is None or copy is None or copy.before[copy.axis] != 1:
        return None
    if copy.axis not in (axis, axis + 1) or not _joins(node, copy.after, axis):
        return None
    if copy.axis == axis and copy.after[axis + 1] != 1:
        raise Mismatch(f"'{node.name}' {_AS_A_WHOLE}")
    return Repeat(copy.times, (node, maker, *copy.nodes), copy.narrow)


def _joins(node: onnx_ir.Node, sizes: _Dims, axis: int) -> bool:
    """Tell whether a reshape of a tensor of these sizes joins ``axis`` and the one behind it, and no more."""
    if axis + 1 >= len(sizes):
        return False
    one, other = sizes[axis], sizes[axis + 1]
    if not isinstance(one, int) or not isinstance(other, int):
        return False
    joined = (*sizes[:axis], one * other, *sizes[axis + 2 :])
    target = constant_ints(node.inputs[1])
    if target is None:
        return None not in joined and dimensions(node.outputs[0]) == joined
    if len(target) != len(joined):
        return False
    kept = [k < axis and size == 0 for k, size in enumerate(target)]
    fits = [a or b == c for a, b, c in zip(kept, target, joined, strict=True)]
    return fits.count(False) - target.count(-1) == 0


@dataclasses.dataclass(frozen=True)
class _Copy:
    """``x`` side by side with itself along one axis."""

    x: onnx_ir.Value
    axis: int
    times: int
    before: _Dims

    @property
    def after(self) -> _Dims:
        """Return the sizes with the copies."""
        size = self.before[self.axis]
        assert isinstance(size, int)
        return (*self.before[: self.axis], size * self.times, *self.before[self.axis + 1 :])

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """Return the node that makes the axis of size 1."""
        found = without_new_axis(self.x, len(self.before) - self.axis)
        return () if found is None else (found[1],)

    def narrow(self, build: Builder) -> onnx_ir.Value:
        """Return ``x`` without the axis."""
        found = without_new_axis(self.x, len(self.before) - self.axis)
        return build.op("Squeeze", self.x, build.ints(self.axis)) if found is None else found[0]


def _copy_of(node: onnx_ir.Node) -> _Copy | None:
    """Read an Expand, Tile or Concat of one value that makes one axis longer."""
    x = _operand(node)
    before = dimensions(x)
    times = None if before is None else _times(node, before)
    if before is None or times is None or len(times) != len(before):
        return None
    grown = [axis for axis, count in enumerate(times) if count != 1]
    if len(grown) != 1 or not isinstance(before[grown[0]], int):
        return None
    return _Copy(x, grown[0], times[grown[0]], before)


def _times(node: onnx_ir.Node, before: _Dims) -> tuple[int, ...] | None:
    """Return how often each axis is repeated."""
    if is_op(node, "Tile"):
        return constant_ints(node.inputs[1])
    if is_op(node, "Concat") and all(value is node.inputs[0] for value in node.inputs):
        axis = attribute_int(node, "axis", 0) % max(1, len(before))
        return tuple(len(node.inputs) if k == axis else 1 for k in range(len(before)))
    after = dimensions(node.outputs[0])
    if not is_op(node, "Expand") or after is None or len(after) != len(before):
        return None
    counts = [_ratio(*sizes) for sizes in zip(before, after, strict=True)]
    known = tuple(count for count in counts if count is not None)
    return known if len(known) == len(counts) else None


def _ratio(before: int | str | None, after: int | str | None) -> int | None:
    if before == after and before is not None:
        return 1
    return after if before == 1 and isinstance(after, int) else None


def _operand(node: onnx_ir.Node) -> onnx_ir.Value:
    if node.inputs[0] is None:
        raise Mismatch(f"{node.op_type} '{node.name}' lacks its operand")
    return node.inputs[0]


_RULES: Mapping[str, Callable[[onnx_ir.Node, int], Repeat | None]] = {
    "Concat": _copied,
    "Expand": _copied,
    "Gather": _gathered,
    "Reshape": _merged,
    "RotaryEmbedding": _through_rotation,
    "Tile": _copied,
    "Transpose": _through_transpose,
}
