"""Put pieces of variants into a copy of the original: in the place of values, or beside them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.ir.values import constant
from whet.passes.proposal import FreshNames, remove_unread
from whet.solve.variants import Piece

__all__ = ["Copied", "Copier", "Grafter"]


class Copied:
    """A piece that was copied: what is new, and what it computes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.nodes: list[onnx_ir.Node] = []
        self.weights: list[onnx_ir.Value] = []
        self.output: onnx_ir.Value | None = None


class Copier:
    """Copy pieces; what two pieces of one variant share is copied once."""

    def __init__(
        self, fresh: Callable[[str], str], initializers: Mapping[str, onnx_ir.Value]
    ) -> None:
        """Name copies by ``fresh``; weights that ``initializers`` hold already are not copied."""
        self._fresh = fresh
        self._initializers = initializers
        self._copies: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Value of a variant -> its copy."""

    def copy(self, piece: Piece, values: Mapping[str, onnx_ir.Value]) -> Copied:
        """Return a copy that reads ``values``, by their names in the original."""
        found = Copied()
        inputs = {value: values[name] for value, name in piece.reads.items()}
        for node in piece.nodes:
            if node.outputs[0] not in self._copies:
                found.nodes.append(self._node(node, inputs, found))
        found.output = self._copies[piece.new]
        return found

    def forget(self, copied: Copied) -> None:
        """Take a copy back: its nodes are not used."""
        made = {v for node in copied.nodes for v in node.outputs} | set(copied.weights)
        self._copies = {old: new for old, new in self._copies.items() if new not in made}

    def _node(
        self,
        node: onnx_ir.Node,
        inputs: Mapping[onnx_ir.Value, onnx_ir.Value],
        found: Copied,
    ) -> onnx_ir.Node:
        copy = onnx_ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else self._input(v, inputs, found) for v in node.inputs],
            attributes=dict(node.attributes),
            num_outputs=len(node.outputs),
            name=self._fresh(node.name or node.op_type),
        )
        for value, made in zip(node.outputs, copy.outputs, strict=True):
            made.name = self._fresh(value.name or node.op_type)
            made.type, made.shape = value.type, value.shape
            self._copies[value] = made
        return copy

    def _input(
        self,
        value: onnx_ir.Value,
        inputs: Mapping[onnx_ir.Value, onnx_ir.Value],
        found: Copied,
    ) -> onnx_ir.Value:
        known = inputs.get(value) or self._copies.get(value)
        if known is not None:
            return known
        same = self._initializers.get(value.name or "")
        if same is not None and _equal(same, value):
            return same
        copy = onnx_ir.Value(
            name=self._fresh(value.name or "weight"),
            shape=value.shape,
            type=value.type,
            const_value=value.const_value,
        )
        self._copies[value] = copy
        found.weights.append(copy)
        return copy


def _equal(one: onnx_ir.Value, other: onnx_ir.Value) -> bool:
    """Tell whether two weights are the same; those of a variant that was stored are other objects."""
    if one.const_value is other.const_value:
        return True
    a, b = constant(one), constant(other)
    return a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)


class Grafter:
    """A copy of the original that grows."""

    def __init__(self, model: onnx_ir.Model) -> None:
        """Copy the model."""
        self.model = model.clone()
        self._graph = self.model.graph
        self._copier = Copier(FreshNames(self.model), self._graph.initializers)
        self._values = {v.name or "": v for v in self._graph.inputs}
        for node in self._graph:
            self._values.update((v.name or "", v) for v in node.outputs)

    def beside(self, pieces: Sequence[Piece]) -> list[onnx_ir.Value]:
        """Compute pieces from the original's values; return what they compute."""
        found = [self._add(piece) for piece in pieces]
        self._graph.sort()
        return found

    def replace(self, pieces: Sequence[Piece]) -> onnx_ir.Model:
        """Let pieces take the place of the original's values; return the model.

        They must be in graph order, so that each reads what earlier ones made.
        """
        old_nodes = list(self._graph)
        for piece in pieces:
            old, new = self._values[piece.old], self._add(piece)
            _take_over(old, new)
            self._values[piece.old] = new
        self._graph.sort()
        remove_unread(reversed(old_nodes))
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self._graph.initializers[name]
        return self.model

    def _add(self, piece: Piece) -> onnx_ir.Value:
        copied = self._copier.copy(piece, self._values)
        for value in copied.weights:
            self._graph.register_initializer(value)
        for node in copied.nodes:
            self._graph.append(node)
            self._graph.opset_imports.setdefault(node.domain, 1)
        assert copied.output is not None
        return copied.output


def _take_over(old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    new.shape, new.type = new.shape or old.shape, new.type or old.type
    if old.is_graph_output():
        old.name, new.name = f"{old.name}.replaced", old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
