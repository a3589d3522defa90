"""Write a region of a graph once more: without what goes, or with zeros in its place."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir

from whet.analysis.coupling import Coupled, Slot
from whet.ir.values import Array, constant, dimensions
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.sparsity.prune_adapting import ADAPTED, Kept
from whet.passes.sparsity.prune_regions import Region

__all__ = ["Masking", "Shrinking", "replacement"]

Remaining = tuple[Kept | None, ...]
_HARMLESS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Div": (1,),
    "Pow": (1,),
    "Clip": (1, 2),
    "RotaryEmbedding": (1, 2),
}
"""Operands in which a zero would not silence a channel: divisors, exponents, variances."""
_NEVER_ZERO: Mapping[str, int] = {"Div": 1, "Reciprocal": 0, "Log": 0}
"""Operands whose zeros, where they are computed, become infinities: zero times those is no zero."""


class _Copying:
    """Copy nodes one by one; what they read is the copy where there is one."""

    def __init__(
        self,
        coupled: Coupled,
        gone: Collection[int],
        region: Region,
        fresh: Callable[[str], str],
        given: Mapping[onnx_ir.Value, Array] = MappingProxyType({}),
    ) -> None:
        """Copy a region; constants in ``given`` have those values instead of their own."""
        self._given = given
        self.build = Builder(fresh, region.nodes[0])
        self.places: dict[onnx_ir.Node, onnx_ir.Node] = {}
        self._coupled = coupled
        self._gone = gone
        self._slots = {place: slot for slot in coupled.slots for place in slot.readers}
        self._made: dict[Slot, onnx_ir.Value] = {}
        self._new: dict[onnx_ir.Value, onnx_ir.Value] = {}
        for node in region.nodes:
            made = self.node(node)
            for old, new in zip(node.outputs, made, strict=True):
                new.type = old.type
                new.shape = self.shape(old)
                self._new[old] = new
            self.places.update((n, node) for n in self.build.nodes if n not in self.places)

    def read(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """Return the copy of a value, or the value where it has none."""
        return self._new.get(value, value)

    def plain(
        self,
        node: onnx_ir.Node,
        operands: Mapping[int, onnx_ir.Value] | None = None,
        attributes: Mapping[str, Attribute | None] | None = None,
    ) -> Sequence[onnx_ir.Value]:
        """Copy a node with some operands and attributes replaced (None leaves an attribute out)."""
        given = dict(operands or {})
        count = max([len(node.inputs), *(k + 1 for k in given)])
        inputs = [given[k] if k in given else self._input(node, k) for k in range(count)]
        merged: dict[str, Attribute | None] = {**node.attributes, **(attributes or {})}
        return self.build.ops(
            node.op_type,
            inputs,
            len(node.outputs),
            domain=node.domain,
            attributes={k: v for k, v in merged.items() if v is not None},
        )

    def inputs(self, node: onnx_ir.Node) -> list[Remaining]:
        """Return what remains of every operand, axis by axis."""
        return [self._remaining(node, k) for k in range(len(node.inputs))]

    def outputs(self, node: onnx_ir.Node) -> list[Remaining]:
        """Return what remains of every output, axis by axis."""
        return [self._of(value) for value in node.outputs]

    @abstractmethod
    def node(self, node: onnx_ir.Node) -> Sequence[onnx_ir.Value]:
        """Copy one node."""

    @abstractmethod
    def weight(self, array: Array, remaining: Remaining, node: onnx_ir.Node, place: int) -> Array:
        """Return a constant of which something goes."""

    @abstractmethod
    def shape(self, value: onnx_ir.Value) -> onnx_ir.Shape | None:
        """Return the shape of the copy of a value."""

    def _of(self, value: onnx_ir.Value | None) -> Remaining:
        axes = () if value is None else self._coupled.axes(value)
        rank = len(dimensions(value) or ()) if not axes else len(axes)
        return self._coupled.remaining(axes, self._gone) or (None,) * rank

    def _remaining(self, node: onnx_ir.Node, place: int) -> Remaining:
        slot = self._slots.get((node, place))
        if slot is None:
            return self._of(node.inputs[place])
        return self._coupled.remaining(slot.axes, self._gone)

    def _input(self, node: onnx_ir.Node, place: int) -> onnx_ir.Value | None:
        value = node.inputs[place] if place < len(node.inputs) else None
        slot = self._slots.get((node, place))
        if value is None or slot is None:
            return None if value is None else self._new.get(value, value)
        if slot not in self._made:
            self._made[slot] = self._changed(slot, value, node, place)
        return self._made[slot]

    def _changed(
        self, slot: Slot, value: onnx_ir.Value, node: onnx_ir.Node, place: int
    ) -> onnx_ir.Value:
        remaining = self._coupled.remaining(slot.axes, self._gone)
        old = constant(value)
        if old is None or all(kept is None for kept in remaining):
            return value
        array = self._given.get(value, old)
        new = self.weight(array, remaining, node, place)
        return value if new is old else self.build.constant(new, value.name or "")


class Shrinking(_Copying):
    """Copy without what goes."""

    def node(self, node: onnx_ir.Node) -> Sequence[onnx_ir.Value]:
        """Copy a node with the counts, sizes and places that fit."""
        adapt = ADAPTED.get(node.op_type)
        return self.plain(node) if adapt is None else adapt(self, node)

    def weight(self, array: Array, remaining: Remaining, node: onnx_ir.Node, place: int) -> Array:
        """Leave indices out."""
        for axis, kept in enumerate(remaining):
            if kept is not None:
                array = np.compress(kept, array, axis)
        return np.ascontiguousarray(array)

    def shape(self, value: onnx_ir.Value) -> onnx_ir.Shape | None:
        """Return the smaller shape."""
        if value.shape is None:
            return None
        remaining = self._of(value)
        sizes = [
            size if k >= len(remaining) or (kept := remaining[k]) is None else int(kept.sum())
            for k, size in enumerate(value.shape)
        ]
        return onnx_ir.Shape(sizes)


class Masking(_Copying):
    """Copy with zeros in place of what goes: what it writes, and what reads it.

    What is divided by has ones there.
    """

    def node(self, node: onnx_ir.Node) -> Sequence[onnx_ir.Value]:
        """Copy a node as it is."""
        place = _NEVER_ZERO.get(node.op_type)
        mask = None if place is None else self._stays(node, place)
        if place is None or mask is None:
            return self.plain(node)
        operand = self._input(node, place)
        assert operand is not None
        kind = np.float32 if operand.dtype is None else operand.dtype.numpy()
        one, stays = self.build.constant(np.ones((), kind)), self.build.constant(mask)
        return self.plain(node, {place: self.build.op("Where", stays, operand, one)})

    def _stays(self, node: onnx_ir.Node, place: int) -> Array | None:
        """Return where a computed operand stays, to be broadcast; None where all of it does."""
        if (node, place) in self._slots:
            return None
        found: Array | None = None
        remaining = self._remaining(node, place)
        for axis, kept in enumerate(remaining):
            if kept is not None:
                part = np.asarray(kept).reshape(
                    [-1 if a == axis else 1 for a in range(len(remaining))]
                )
                found = part if found is None else np.logical_and(found, part)
        return found

    def weight(self, array: Array, remaining: Remaining, node: onnx_ir.Node, place: int) -> Array:
        """Put zeros in; what was given has them."""
        if node.inputs[place] in self._given or place in _HARMLESS.get(node.op_type, ()):
            return array
        array = array.copy()
        for axis, kept in enumerate(remaining):
            if kept is not None:
                np.moveaxis(array, axis, 0)[~kept] = 0
        return array

    def shape(self, value: onnx_ir.Value) -> onnx_ir.Shape | None:
        """Return the shape as it is."""
        return value.shape


def replacement(
    region: Region, copy: Shrinking | Masking, old: Shrinking | Masking | None = None
) -> Proposal:
    """Return the proposal to put ``copy`` in place of a region, or a comparison with another copy of it."""
    pairs = tuple((v if old is None else old.read(v), copy.read(v)) for v in region.results)
    nodes = tuple(reversed(region.nodes)) if old is None else tuple(reversed(old.build.nodes))
    return Proposal(
        nodes,
        pairs,
        tuple(copy.build.nodes),
        tuple(copy.build.initializers),
        copy.places if old is None else {},
        None if old is None else region.home,
    )
