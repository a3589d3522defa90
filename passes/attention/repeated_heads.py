"""Recognize heads that are repeated, one after the other, for groups of queries."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, attribute_ints, constant, dimensions, is_op
from whet.passes.attention.last_axis import without_new_axis
from whet.passes.proposal import Builder

__all__ = ["Repeat", "read_repeat"]

_Dims = tuple[int | str | None, ...]


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
        raise Mismatch(
            f"'{node.name}' repeats the heads as a whole: [a, b, a, b], not [a, a, b, b]"
        )
    return Repeat(copy.times, (node,), lambda _: copy.x)


def _merged(node: onnx_ir.Node, axis: int) -> Repeat | None:
    """Read ``Reshape(Expand(Unsqueeze(x)))``: copies along an axis of their own, which joins that of the heads."""
    wide = _operand(node)
    maker = wide.producer()
    copy = None if maker is None else _copy_of(maker)
    sizes, flat = dimensions(wide), dimensions(node.outputs[0])
    if (
        maker is None
        or copy is None
        or sizes is None
        or flat is None
        or copy.before[copy.axis] != 1
    ):
        return None
    own = copy.axis
    if own == axis + 1 and _joins(sizes, flat, axis):
        return Repeat(copy.times, (node, maker, *copy.nodes), lambda build: copy.narrow(build))
    if own == axis and _joins(sizes, flat, axis):
        if sizes[axis + 1] != 1:
            raise Mismatch(
                f"'{node.name}' repeats the heads as a whole: [a, b, a, b], not [a, a, b, b]"
            )
        return Repeat(copy.times, (node, maker, *copy.nodes), lambda build: copy.narrow(build))
    return None


def _joins(sizes: _Dims, flat: _Dims, axis: int) -> bool:
    """Tell whether a reshape joins ``axis`` and the one behind it."""
    if len(sizes) != len(flat) + 1 or axis + 1 >= len(sizes):
        return False
    one, other = sizes[axis], sizes[axis + 1]
    if not isinstance(one, int) or not isinstance(other, int) or None in flat:
        return False
    return flat == (*sizes[:axis], one * other, *sizes[axis + 2 :])


@dataclasses.dataclass(frozen=True)
class _Copy:
    """``x`` side by side with itself along one axis."""

    x: onnx_ir.Value
    axis: int
    times: int
    before: _Dims

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
    """Read an Expand, Tile or Concat of one value whose shapes are known to differ in one axis."""
    if not is_op(node, "Expand", "Tile", "Concat"):
        return None
    x = _operand(node)
    if node.op_type == "Concat" and any(value is not x for value in node.inputs):
        return None
    before, after = dimensions(x), dimensions(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return None
    grown = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b or a is None]
    if len(grown) != 1:
        return None
    small, large = before[grown[0]], after[grown[0]]
    if not isinstance(small, int) or not isinstance(large, int) or small == 0:
        return None
    return _Copy(x, grown[0], large // small, before)


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
