"""Lay cosines and sines out as the operator takes them."""

import dataclasses
from collections.abc import Hashable

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import constant, dimensions, is_constant, is_op
from whet.passes.attention.half_angles import Halver
from whet.passes.forms import axes_of, from_zero, known_rank
from whet.passes.proposal import Builder

__all__ = ["AngleTables", "Layout", "layout_of"]

_Dims = tuple[int | str | None, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a tensor of rank 4 has its heads."""

    x: onnx_ir.Value
    heads: int
    """1 in ``[batch, heads, length, size]``, 2 in ``[batch, length, heads, size]``."""

    @property
    def sizes(self) -> _Dims:
        """Return the sizes of x."""
        return dimensions(self.x) or ()

    @property
    def length(self) -> int | str | None:
        """Return the number of positions."""
        return self.sizes[3 - self.heads]


def layout_of(x: onnx_ir.Value, angles: onnx_ir.Value, count: int) -> Layout:
    """Tell the layout of x by the shape of the angles, ``count`` at each position; raises Mismatch."""
    sizes, found = dimensions(x), dimensions(angles)
    if sizes is None or found is None:
        raise Mismatch(f"the shape of '{(x if sizes is None else angles).name}' is not known")
    if len(sizes) != 4:
        raise Mismatch(f"'{x.name}' is of rank {len(sizes)}, not 4")
    if len(found) > 4 or len(found) < 2 or found[-1] != count:
        raise Mismatch(f"the angles are {list(found)}, expected the last size to be {count}")
    _, first, second, _ = (1,) * (4 - len(found)) + found
    for heads, shared, length in ((1, first, second), (2, second, first)):
        if shared == 1 and length is not None and length == sizes[3 - heads]:
            return Layout(x, heads)
    if 1 not in (first, second):
        raise Mismatch(f"the angles {list(found)} differ from head to head")
    raise Mismatch(f"the angles {list(found)} are not one for each position of {list(sizes)}")


@dataclasses.dataclass
class AngleTables:
    """Make ``[batch, length, pairs]`` of cosines or sines for one rotation."""

    layout: Layout
    halver: Halver
    doubled: bool
    """The angles are written twice along the last axis."""
    constants: dict[Hashable, onnx_ir.Value]
    """Constant tables made before, by what they were made from: layers share them."""

    def table(self, angles: onnx_ir.Value) -> onnx_ir.Value:
        """Return the angles without the axis of the heads, once each, for every sequence of the batch."""
        if is_constant(angles):
            return self._for_batch(self._constant(angles), angles)
        return self._for_batch(self._without_heads(angles), angles)

    def _once(self, angles: onnx_ir.Value) -> onnx_ir.Value:
        return self.halver.halve(angles) if self.doubled else angles

    def _constant(self, angles: onnx_ir.Value) -> onnx_ir.Value:
        key = (angles, self.layout.heads, self.doubled, self.halver.interleaved)
        if key not in self.constants:
            array = constant(angles)
            assert array is not None
            array = self.halver.half_of(array, angles) if self.doubled else array
            full = array.reshape((1,) * (4 - array.ndim) + array.shape)
            self.constants[key] = self.halver.build.constant(full.squeeze(self.layout.heads))
        return self.constants[key]

    def _without_heads(self, angles: onnx_ir.Value) -> onnx_ir.Value:
        """Take the heads' axis out, or do not put it in; a missing axis of the batch is put in."""
        build, rank = self.halver.build, known_rank(angles)
        heads = self.layout.heads - (4 - rank)
        node = angles.producer()
        axes = _new_axes(node, rank)
        if node is not None and heads in axes:
            self.halver.nodes[node] = None
            table, rank = _operand(node), rank - len(axes)
            left = [axis - (axis > heads) for axis in axes if axis != heads]
            table = self._once(table)
            table = build.op("Unsqueeze", table, build.ints(*left)) if left else table
            rank += len(left)
        elif rank == 4 or heads == 1:
            table, rank = build.op("Squeeze", self._once(angles), build.ints(heads)), rank - 1
        else:
            table = self._once(angles)
        return table if rank == 3 else build.op("Unsqueeze", table, build.ints(0))

    def _for_batch(self, table: onnx_ir.Value, angles: onnx_ir.Value) -> onnx_ir.Value:
        """Repeat the table for every sequence where it is written for one: the operator does not broadcast."""
        sizes, batch = dimensions(angles) or (), self.layout.sizes[0]
        own = sizes[0] if len(sizes) == 4 else 1
        if own == batch and batch is not None:
            return table
        build = self.halver.build
        if isinstance(batch, int):
            return build.op("Expand", table, build.ints(batch, 1, 1))
        count = _batch_of(self.layout.x, build)
        target = build.op("Concat", count, build.ints(1, 1), attributes={"axis": 0})
        return build.op("Expand", table, target)


def _operand(node: onnx_ir.Node) -> onnx_ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _new_axes(node: onnx_ir.Node | None, rank: int) -> tuple[int, ...]:
    if node is None or not is_op(node, "Unsqueeze"):
        return ()
    axes = axes_of(node)
    return () if axes is None else from_zero(axes, rank)


def _batch_of(x: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
    """Return the size of the batch, taken from an input of the model if one has it: then all layers share it."""
    symbol = (dimensions(x) or (None,))[0]
    for value in () if x.graph is None or symbol is None else x.graph.inputs:
        sizes = dimensions(value) or ()
        if symbol in sizes:
            axis = sizes.index(symbol)
            return build.op("Shape", value, attributes={"start": axis, "end": axis + 1})
    return build.op("Shape", x, attributes={"start": 0, "end": 1})
