"""Halve the cosines and sines of rotary positions, which models write twice."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_int,
    attribute_ints,
    constant,
    constant_ints,
    dimensions,
    is_op,
)
from whet.passes.attention.last_axis import last_size, pair_of
from whet.passes.forms import axes_of, from_zero
from whet.passes.proposal import Builder

__all__ = ["Halver"]

_UNARY = frozenset({"Cast", "Cos", "Exp", "Identity", "Neg", "Reciprocal", "Sin", "Sqrt"})
_BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})


@dataclasses.dataclass
class Halver:
    """Compute from scratch one half of a value whose elements come twice along the last axis.

    Either ``[a, b, a, b]`` or, interleaved, ``[a, a, b, b]`` becomes ``[a, b]``. What is computed from such a value
    element by element is such a value: the walk goes upstream to where the same value is concatenated with itself, or
    to a constant, and repeats the computation on one half.
    """

    build: Builder
    interleaved: bool
    nodes: dict[onnx_ir.Node, None] = dataclasses.field(default_factory=dict[onnx_ir.Node, None])
    """The nodes on the way; they are needed to prove that the halves are equal."""
    done: dict[onnx_ir.Value, onnx_ir.Value] = dataclasses.field(
        default_factory=dict[onnx_ir.Value, onnx_ir.Value]
    )

    def halve(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """Return a value of the same shape but for a last axis that is half as long; raises Mismatch."""
        if value not in self.done:
            self.done[value] = self._halve(value)
        return self.done[value]

    def _halve(self, value: onnx_ir.Value) -> onnx_ir.Value:
        array = constant(value)
        if array is not None:
            return self.build.constant(self.half_of(array, value))
        node = value.producer()
        if node is None:
            raise Mismatch(f"'{value.name}' is an input: its halves may differ")
        source = self._written_twice(value)
        if source is not None:
            return source
        self.nodes[node] = None
        kind = node.op_type if is_op(node, node.op_type) else ""
        if kind in _UNARY:
            return self._again(node, self.halve(_operand(node)))
        if kind in _BINARY:
            return self.build.op(kind, *(self._part(v) for v in node.inputs))
        rule = _MOVES.get(kind)
        if rule is None:
            raise Mismatch(f"the halves of '{value.name}', made by {node.op_type}, may differ")
        return rule(self, node)

    def half_of(self, array: Array, value: onnx_ir.Value) -> Array:
        """Return one half of a constant; raises Mismatch if the other one is different."""
        half = array.shape[-1] // 2
        if self.interleaved:
            first, second = array[..., 0::2], array[..., 1::2]
        else:
            first, second = array[..., :half], array[..., half:]
        if not np.array_equal(first, second):
            raise Mismatch(f"the halves of the constant '{value.name}' differ")
        return np.ascontiguousarray(first)

    def _written_twice(self, value: onnx_ir.Value) -> onnx_ir.Value | None:
        """Return the value that ``value`` holds twice."""
        pair = pair_of(value)
        if pair is not None and pair.interleaved == self.interleaved and pair.first is pair.second:
            self.nodes.update(dict.fromkeys(pair.nodes))
            return pair.first
        found = _repeated(value, 1 if self.interleaved else 2)
        if found is not None:
            self.nodes.update(dict.fromkeys(found.nodes))
            return found.once(self.build)
        return None

    def _part(self, value: onnx_ir.Value | None) -> onnx_ir.Value | None:
        """Halve an operand that is as long as the result; leave one that is broadcast."""
        size, sizes = last_size(value), dimensions(value)
        if value is None or sizes == () or size == 1:
            return value
        if size is None:
            raise Mismatch(f"the size of '{value.name}' is not known")
        return self.halve(value)

    def _again(self, node: onnx_ir.Node, x: onnx_ir.Value) -> onnx_ir.Value:
        attributes = dict(node.attributes)
        return self.build.op(node.op_type, x, *node.inputs[1:], attributes=attributes)

    def moved(self, node: onnx_ir.Node) -> onnx_ir.Value:
        """Repeat an operator that leaves the last axis as it is."""
        return self._again(node, self.halve(_operand(node)))


def _operand(node: onnx_ir.Node) -> onnx_ir.Value:
    x = node.inputs[0]
    if x is None:
        raise Mismatch(f"{node.op_type} '{node.name}' lacks its operand")
    return x


@dataclasses.dataclass(frozen=True)
class _Repeated:
    """A value whose last axis holds that of ``single`` twice; ``single`` has an axis of size 1 for it, or None."""

    single: onnx_ir.Value
    axis: int | None
    nodes: tuple[onnx_ir.Node, ...]

    def once(self, build: Builder) -> onnx_ir.Value:
        """Return what is held twice."""
        if self.axis is None:
            return self.single
        rank = len(dimensions(self.single) or ())
        maker = self.single.producer()
        axes = from_zero(axes_of(maker) or (), rank) if is_op(maker, "Unsqueeze") and maker else ()
        if self.axis not in axes or maker is None:
            return build.op("Squeeze", self.single, build.ints(self.axis))
        left = [axis - (axis > self.axis) for axis in axes if axis != self.axis]
        x = _operand(maker)
        return build.op("Unsqueeze", x, build.ints(*left)) if left else x


def _repeated(value: onnx_ir.Value, back: int) -> _Repeated | None:
    """Read ``Reshape(Expand(x))``, an axis of size 1 ``back`` places from the end becoming 2, or a Tile."""
    node = value.producer()
    if back == 2 and node is not None and is_op(node, "Tile"):
        counts = constant_ints(node.inputs[1])
        twice = counts is not None and counts[-1] == 2 and set(counts[:-1]) <= {1}
        return _Repeated(_operand(node), None, (node,)) if twice else None
    wide = _operand(node) if node is not None and is_op(node, "Reshape") else None
    repeat = None if wide is None else wide.producer()
    if node is None or repeat is None or not is_op(repeat, "Expand", "Tile"):
        return None
    single = _operand(repeat)
    small, sizes, flat = dimensions(single), dimensions(wide), dimensions(value)
    if small is None or sizes is None or flat is None or None in flat or len(small) < back:
        return None
    at = len(small) - back
    lead, size = small[:-2], small[-1 if back == 2 else -2]
    if small[at] != 1 or sizes != (*small[:at], 2, *small[at + 1 :]) or not isinstance(size, int):
        return None
    if flat != (*lead, 2 * size):
        return None
    maker = single.producer()
    makers = (maker,) if maker is not None and is_op(maker, "Unsqueeze") else ()
    return _Repeated(single, at, (node, repeat, *makers))


def _unsqueeze(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    rank = len(dimensions(node.outputs[0]) or ())
    axes = axes_of(node)
    if axes is None or rank == 0 or rank - 1 in from_zero(axes, rank):
        raise Mismatch(f"'{node.name}' changes the last axis")
    return halver.moved(node)


def _squeeze(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    if axes_of(node) is None:
        raise Mismatch(f"'{node.name}' removes whatever axis is 1 at run time")
    return halver.moved(node)


def _transpose(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    order = attribute_ints(node, "perm")
    if order is None or order[-1] != len(order) - 1:
        raise Mismatch(f"'{node.name}' moves the last axis")
    return halver.moved(node)


def _slice(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    rank = len(dimensions(_operand(node)) or ())
    ends = node.inputs[3] if len(node.inputs) > 3 else None
    axes = attribute_ints(node, "axes") or constant_ints(ends) or ()
    if not axes or rank == 0 or rank - 1 in from_zero(axes, rank):
        raise Mismatch(f"'{node.name}' takes a part of the last axis")
    return halver.moved(node)


def _gather(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    rank = len(dimensions(_operand(node)) or ())
    if rank == 0 or attribute_int(node, "axis", 0) % rank == rank - 1:
        raise Mismatch(f"'{node.name}' takes elements of the last axis")
    return halver.moved(node)


def _concat(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    rank = len(dimensions(node.outputs[0]) or ())
    if rank == 0 or attribute_int(node, "axis", 0) % rank == rank - 1:
        raise Mismatch(f"'{node.name}' puts different values side by side along the last axis")
    operands = [halver.halve(v) for v in node.inputs if v is not None]
    return halver.build.op("Concat", *operands, attributes=dict(node.attributes))


def _expand(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    """Leave out what repeats the batch: it is put back where the angles are used."""
    x = _operand(node)
    before, after = dimensions(x), dimensions(node.outputs[0])
    known = before is not None and after is not None and len(before) == len(after)
    if not known or before is None or after is None or None in before or before[1:] != after[1:]:
        raise Mismatch(f"'{node.name}' repeats more than the batch")
    return halver.halve(x)


def _reshape(halver: Halver, node: onnx_ir.Node) -> onnx_ir.Value:
    x = _operand(node)
    target = constant_ints(node.inputs[1])
    size = last_size(x)
    if target is None or size is None or last_size(node.outputs[0]) != size:
        raise Mismatch(f"'{node.name}' may change the last axis")
    last = size // 2 if target[-1] > 0 else target[-1]
    half = halver.halve(x)
    return halver.build.op("Reshape", half, halver.build.ints(*target[:-1], last))


_MOVES: Mapping[str, Callable[[Halver, onnx_ir.Node], onnx_ir.Value]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
