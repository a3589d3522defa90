"""Follow every axis of every value through a graph: what a rule of an operator is given, and what it may say."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.coupling.terms import FIXED, Terms, Vector
from whet.analysis.sizes import KnownSizes
from whet.ir.values import attribute_int, captured, constant_ints, dimensions, is_constant

__all__ = ["Axes", "Rule", "Slot", "Trace", "Use", "axes_of"]

Axes = tuple[Vector | None, ...]
"""Per axis the terms of its indices; None where the axis never changes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """A constant as the nodes ``readers`` read it, and its axes.

    Weights with two or more axes longer than one are one slot, however often they are read: a tied weight stays tied.
    Vectors are a slot at every place where they are read, since equal ones are often stored once by chance.
    """

    value: onnx_ir.Value
    readers: tuple[tuple[onnx_ir.Node, int], ...]
    axes: Axes


@dataclasses.dataclass(frozen=True)
class Use:
    """One node, with the axes of its operands; what rules work with."""

    trace: "Trace"
    node: onnx_ir.Node
    operands: tuple[Axes | None, ...]

    @property
    def label(self) -> str:
        """Return operator and name."""
        return f"{self.node.op_type} '{self.node.name}'"

    def sizes(self, operand: int) -> tuple[int | str | None, ...]:
        """Return the sizes of an operand, which must have axes."""
        value = self.node.inputs[operand] if operand < len(self.node.inputs) else None
        return dimensions(value) or ()

    def out_sizes(self, output: int = 0) -> tuple[int | str | None, ...] | None:
        """Return the sizes of an output, if the rank is known."""
        return dimensions(self.node.outputs[output])

    def axes(self, operand: int) -> Axes | None:
        """Return the axes of an operand, None where it is missing or of unknown rank."""
        return self.operands[operand] if operand < len(self.operands) else None

    def number(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return attribute_int(self.node, name, default)

    def ints(self, operand: int) -> tuple[int, ...] | None:
        """Return a fixed integer operand."""
        if operand >= len(self.node.inputs):
            return None
        return constant_ints(self.node.inputs[operand])

    def join(self, one: Vector | None, other: Vector | None, why: str = "") -> Vector | None:
        """Let two axes lose the same indices; an axis that never changes keeps the other from it."""
        return self.trace.join(one, other, why or f"{self.label} meets an axis that cannot shrink")

    def fix(self, vectors: Sequence[Vector | None], why: str) -> None:
        """Never remove an index of these axes; ``why`` is completed by the place."""
        self.trace.fix(vectors, f"{self.label} {why}")

    def leave(self, vectors: Sequence[Vector | None]) -> None:
        """Never remove an index of axes of which nobody would expect it, such as the places of a filter."""
        self.trace.fix(vectors, "")

    def tag(self, vector: Vector | None, tag: str) -> None:
        """Note what indices of an axis are."""
        if vector is not None:
            self.trace.tags.append((vector, tag))

    def give_up(self, why: str) -> list[Axes | None]:
        """Fix everything that the node reads; its outputs never change."""
        for operand in self.operands:
            self.fix(operand or (), why)
        return [None] * len(self.node.outputs)


Rule = Callable[[Use], Sequence[Axes | None]]
"""Impose what an operator asks for, and return the axes of its outputs."""


class Trace:
    """One walk over the main graph."""

    def __init__(self, graph: onnx_ir.Graph, rules: Mapping[str, Rule]) -> None:
        """Walk."""
        self.terms = Terms()
        self.sizes = KnownSizes(graph)
        self.values: dict[onnx_ir.Value, Axes] = {}
        self.tags: list[tuple[Vector, str]] = []
        self._slots: dict[object, Slot] = {}
        self._graph = graph
        for node in graph:
            self._visit(node, rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None)
        for value in graph.outputs:
            self.fix(self.values.get(value, ()), f"'{value.name}' is an output of the model")

    @property
    def slots(self) -> list[Slot]:
        """Return constants of which something may go."""
        return list(self._slots.values())

    def join(self, one: Vector | None, other: Vector | None, why: str) -> Vector | None:
        """Let two axes lose the same indices and return them."""
        if one is None or other is None or one.size != other.size:
            self.fix((one, other), why)
            return other if one is None else one
        self.terms.join(one, other, why)
        return one

    def fix(self, vectors: Sequence[Vector | None], why: str) -> None:
        """Never remove an index of these axes."""
        for vector in vectors:
            if vector is not None:
                self.terms.fix(vector, why)

    def _visit(self, node: onnx_ir.Node, rule: Rule | None) -> None:
        operands = tuple(self._operand(node, k, v) for k, v in enumerate(node.inputs))
        use = Use(self, node, operands)
        for value in captured(node):
            self.fix(self.values.get(value, ()), f"{use.label} reads '{value.name}' inside")
        if rule is None:
            found: Sequence[Axes | None] = use.give_up("is not understood")
        else:
            found = rule(use)
        for value, axes in zip(node.outputs, found, strict=False):
            if axes is not None and any(vector is not None for vector in axes):
                self.values[value] = tuple(map(_worth_following, axes))

    def _operand(self, node: onnx_ir.Node, index: int, value: onnx_ir.Value | None) -> Axes | None:
        if value is None:
            return None
        if is_constant(value):
            return self._constant(node, index, value)
        sizes = dimensions(value)
        found = self.values.get(value)
        if found is None:
            return None if sizes is None else (None,) * len(sizes)
        return found

    def _constant(self, node: onnx_ir.Node, index: int, value: onnx_ir.Value) -> Axes:
        tensor = value.const_value
        assert tensor is not None
        sizes = tuple(int(size) for size in tensor.shape.numpy())
        long = sum(size > 1 for size in sizes)
        if not long or not tensor.dtype.is_floating_point() or value.is_graph_output():
            return (None,) * len(sizes)
        key: object = value if long > 1 else (node, index)
        slot = self._slots.get(key)
        if slot is None:
            axes = tuple(self.terms.fresh(size) if size > 1 else None for size in sizes)
            slot = Slot(value, (), axes)
        self._slots[key] = dataclasses.replace(slot, readers=(*slot.readers, (node, index)))
        return slot.axes


def axes_of(use: Use, operand: int, rank: int) -> Axes:
    """Return the axes of an operand with as many leading ones as broadcasting to ``rank`` adds."""
    axes = use.axes(operand) or ()
    return (None,) * (rank - len(axes)) + axes


def _worth_following(vector: Vector | None) -> Vector | None:
    return None if vector is None or not np.any(vector != FIXED) else vector
