"""Write a residual stream once more, in other bases: what a rotation and the removal of channels have in common.

A basis is a matrix Q of n rows with orthonormal columns: the stream's values x become x Q. Everything that writes into
the stream becomes W Q, everything that reads it Q' diag(g) W, with g the scale of the normalization in between. Where
two bases meet, at an addition, Q_aᵀ Q_b takes values from one to the other. With m < n columns, the normalization of m
numbers gets the scale √(n / m), so that it still divides by the mean over n.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.residual_streams import NormReader, ResidualStream, tied_table
from whet.errors import Mismatch
from whet.ir.values import (
    attribute_float,
    attribute_int,
    constant,
    constant_ints,
    is_constant,
    is_op,
    rank,
    static_shape,
)
from whet.passes.fusion.linear import Linear
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.quantization.algorithms.rotations import centering
from whet.passes.quantization.scaled_region import checked, positions

__all__ = ["Bases", "check_stream", "turned"]

Floats = NDArray[np.float64]
_RESHAPED = ("Reshape", "Expand", "Tile")


@dataclasses.dataclass(frozen=True)
class Bases:
    """The new bases of a stream, all with as many columns."""

    matrices: tuple[Floats, ...]
    of: Mapping[onnx_ir.Value, int] = dataclasses.field(default_factory=dict[onnx_ir.Value, int])
    """Value -> the number of its basis; the first one where there is none."""

    def number(self, value: onnx_ir.Value | None) -> int:
        """Return which basis a value is in."""
        return 0 if value is None else self.of.get(value, 0)

    @property
    def size(self) -> int:
        """Return the channels that remain."""
        return int(self.matrices[0].shape[1])


def check_stream(stream: ResidualStream, opset: int, *, untie: bool) -> None:
    """Raise Mismatch where a stream cannot be written in another basis."""
    for reason in stream.obstacles.values():
        raise Mismatch(reason)
    if stream.centered and stream.readers:
        name = stream.readers[0].name
        raise Mismatch(f"'{name}' reads the stream without subtracting its mean")
    if stream.centered and opset < 23:
        raise Mismatch(f"opset {opset} has no RMSNormalization, opset 23 has")
    if not untie:
        _check_tied(stream)


def _check_tied(stream: ResidualStream) -> None:
    nodes = [*stream.writers, *stream.readers, *(r for n in stream.norms for r in n.readers)]
    for node in nodes:
        weight = node.inputs[0 if is_op(node, "Gather") else 1]
        if weight is not None and len(weight.uses()) > 1:
            raise Mismatch(
                f"weight '{weight.name}' is shared: it would be stored twice (untie accepts that)"
            )


def turned(stream: ResidualStream, bases: Bases, build: Builder, graph: onnx_ir.Graph) -> Proposal:
    """Return the proposal that the stream is in other bases; raises Mismatch."""
    turn = _Turn(stream, bases, build)
    norms = {norm.node: norm for norm in stream.norms}
    moved = {node for norm in stream.norms for node in norm.between}
    reads = {node: norm for norm in stream.norms for node in norm.readers}
    nodes = {*stream.writers, *stream.joints, *norms, *moved, *reads, *stream.readers}
    order = positions(graph)
    for node in sorted(nodes, key=lambda n: order[n]):
        written = node in stream.writers
        turn.enter(node)
        if node in norms:
            turn.norm(norms[node])
        elif node in reads or node in stream.readers:
            turn.read(node, reads.get(node), written=written)
        elif written:
            turn.write(node)
        else:
            turn.copy(node)
        turn.leave(node)
        turn.placed(node)
    root = stream.norms[0].node
    tied = {
        made for node in (*reads, *stream.readers) if (made := _turned_weight(node)) is not None
    }
    return Proposal(
        (root, *sorted((nodes | tied) - {root}, key=lambda n: -order[n])),
        turn.outputs(nodes),
        tuple(build.nodes),
        tuple(build.initializers),
        turn.places,
    )


def _turned_weight(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the node that transposes a tied table for a product."""
    weight = node.inputs[1] if tied_table(node) is not None else None
    return None if weight is None else weight.producer()


class _Turn:
    """Write every node of a stream once more, on values in other bases."""

    def __init__(self, stream: ResidualStream, bases: Bases, build: Builder) -> None:
        self._stream = stream
        self._bases = bases
        self._build = build
        self._center = centering(stream.size) if stream.centered else None
        self._new: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self._bridges: dict[tuple[int, int], onnx_ir.Value] = {}
        self._left: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Outputs of the model -> what they are in the old basis again."""
        self.places: dict[onnx_ir.Node, onnx_ir.Node] = {}

    @property
    def _cut(self) -> bool:
        """Tell whether channels go."""
        return self._bases.size < self._stream.size

    def _into(self, value: onnx_ir.Value) -> Floats:
        """Return the matrix that takes what is written into the basis of ``value``."""
        q = self._bases.matrices[self._bases.number(value)]
        return q if self._center is None else self._center @ q

    def enter(self, node: onnx_ir.Node) -> None:
        """Take what a normalization in front of the stream hands on into the new basis."""
        for value in dict.fromkeys(node.inputs):
            if value in self._stream.entries and value not in self._new:
                assert value is not None
                into = _constant(self._into(value), value, self._build)
                self._new[value] = self._build.op("MatMul", value, into)

    def leave(self, node: onnx_ir.Node) -> None:
        """Take outputs of the model back into the old basis, times the scale of what has normalized them."""
        for value in node.outputs:
            if value not in self._stream.exits or value not in self._new:
                continue
            norm = self._stream.exits[value]
            if norm is None and self._center is not None:
                raise Mismatch(f"the output '{value.name}' would be without its mean")
            if self._stream.axes[value] != (rank(value) or 0) - 1:
                raise Mismatch(f"the channels of the output '{value.name}' are not its last axis")
            back, shift = self._back(value, norm)
            made = self._build.op("MatMul", self._new[value], _constant(back, value, self._build))
            if shift is not None and shift.any():
                made = self._build.op("Add", made, _constant(shift, value, self._build))
            self._left[value] = made

    def _back(self, value: onnx_ir.Value, norm: NormReader | None) -> tuple[Floats, Floats | None]:
        """Return what takes a value into the old basis, with scale and bias of its normalization."""
        back = self._bases.matrices[self._bases.number(value)].T
        if norm is None:
            return back, None
        scale, shift = (_vector(v, self._stream.size) for v in (*norm.node.inputs[1:], None)[:2])
        return (back if scale is None else back * scale), shift

    def placed(self, old: onnx_ir.Node) -> None:
        """Note that the nodes added since stand for ``old``."""
        self.places.update((n, old) for n in self._build.nodes if n not in self.places)

    def outputs(self, nodes: set[onnx_ir.Node]) -> tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]:
        """Return the values that others read, and what takes their place."""
        for old, new in self._new.items():
            new.type, new.shape = old.type, self._shape(old)
        entered = set(self._stream.entries)
        return tuple(
            (old, self._left.get(old, new))
            for old, new in self._new.items()
            if old not in entered
            and (old.is_graph_output() or any(node not in nodes for node in old.consumers()))
        )

    def _shape(self, old: onnx_ir.Value) -> onnx_ir.Shape | None:
        axis = self._stream.axes.get(old)
        if axis is None or not self._cut or old.shape is None:
            return old.shape
        sizes = list(old.shape)
        sizes[axis] = self._bases.size
        return onnx_ir.Shape(sizes)

    def write(self, node: onnx_ir.Node) -> None:
        """Turn what a linear operator or a table writes."""
        into = self._into(node.outputs[0])
        if is_op(node, "Gather"):
            table = _constant(self._turned(node.inputs[0], 1, into), node.inputs[0], self._build)
            made = self._build.op("Gather", table, node.inputs[1], attributes=node.attributes)
        else:
            made = _linear(node).turned_behind(into, self._build)
        self._new[node.outputs[0]] = made

    def norm(self, norm: NormReader) -> None:
        """Normalize turned values, with a scale of one; the readers have the rest."""
        node = norm.node
        scale = constant(node.inputs[1])
        assert scale is not None
        more = self._stream.size / self._bases.size
        ones = self._build.constant(np.full(self._bases.size, math.sqrt(more), scale.dtype))
        attributes: dict[str, Attribute] = {
            k: v for k, v in node.attributes.items() if k in ("axis", "epsilon", "stash_type")
        }
        if self._cut:
            attributes["epsilon"] = more * attribute_float(node, "epsilon", 1e-5)
        kind = "RMSNormalization" if is_op(node, "LayerNormalization") else node.op_type
        x = node.inputs[0]
        assert x is not None
        y = self._build.op(kind, self._new[x], ones, domain=node.domain, attributes=attributes)
        self._new[node.outputs[0]] = y

    def read(self, node: onnx_ir.Node, norm: NormReader | None, *, written: bool) -> None:
        """Turn back in the weights of a reader."""
        if written:
            raise Mismatch(f"'{node.name}' reads the stream and writes into it without an addition")
        x = node.inputs[0]
        assert x is not None
        before, shift = self._back(x, norm)
        table = tied_table(node)
        if table is None:
            made = _linear(node).turned_before(before, shift, self._new[x], self._build)
        else:
            made = self._untied(table, before, shift, self._new[x])
        self._new[node.outputs[0]] = made

    def _untied(
        self, table: onnx_ir.Value, before: Floats, shift: Floats | None, x: onnx_ir.Value
    ) -> onnx_ir.Value:
        """Return the product with a table of its own, where it was that of the embedding."""
        array = constant(table)
        assert array is not None
        weight = array.astype(np.float64).T
        made = self._build.op("MatMul", x, _constant(before @ weight, table, self._build))
        if shift is None or not shift.any():
            return made
        return self._build.op("Add", made, _constant(shift @ weight, table, self._build))

    def copy(self, node: onnx_ir.Node) -> None:
        """Repeat an addition or a movement; constants that it adds are turned."""
        if self._cut and is_op(node, "Shape", "Size"):
            self._decline_sizes(node)
        inputs = [self._operand(v, node) for v in node.inputs]
        if self._cut and is_op(node, *_RESHAPED):
            inputs[1] = self._resized(node)
        made = self._build.ops(
            node.op_type, inputs, len(node.outputs), domain=node.domain, attributes=node.attributes
        )
        self._new.update(zip(node.outputs, made, strict=True))

    def _operand(self, value: onnx_ir.Value | None, node: onnx_ir.Node) -> onnx_ir.Value | None:
        """Return what stands for an operand, in the basis of the node's result."""
        if value is None:
            return None
        if value in self._stream.axes and is_constant(value):
            into = self._into(node.outputs[0])
            found = self._turned(value, self._stream.axes[value], into)
            return _constant(found, value, self._build)
        found_value = self._new.get(value, value)
        here, there = (self._bases.number(v) for v in (value, node.outputs[0]))
        if value not in self._stream.axes or node.outputs[0] not in self._stream.axes:
            return found_value
        return found_value if here == there else self._bridged(value, here, there)

    def _bridged(self, value: onnx_ir.Value, here: int, there: int) -> onnx_ir.Value:
        """Return a value taken from one basis to another: x Q_a (Q_aᵀ Q_b)."""
        if self._stream.axes[value] != (rank(value) or 0) - 1:
            raise Mismatch(f"the channels of '{value.name}' are not its last axis (shared helps)")
        matrix = self._bases.matrices[here].T @ self._bases.matrices[there]
        if (here, there) not in self._bridges:
            dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
            self._bridges[here, there] = self._build.constant(matrix.astype(dtype), "bridge")
        return self._build.op("MatMul", self._new[value], self._bridges[here, there])

    def _decline_sizes(self, node: onnx_ir.Node) -> None:
        value = node.inputs[0]
        assert value is not None
        size, axis = rank(value) or 0, self._stream.axes[value]
        first = attribute_int(node, "start", 0)
        last = attribute_int(node, "end", size)
        first, last = (k + size if k < 0 else k for k in (first, last))
        if is_op(node, "Size") or first <= axis < last:
            raise Mismatch(f"{node.op_type} '{node.name}' asks for the number of channels")

    def _resized(self, node: onnx_ir.Node) -> onnx_ir.Value:
        """Return the shape that a movement makes, with fewer channels."""
        given, axis = constant_ints(node.inputs[1]), self._stream.axes[node.outputs[0]]
        place = axis if is_op(node, "Reshape") else axis - (rank(node.outputs[0]) or 0)
        if given is None:
            return self._resized_parts(node, axis)
        sizes = list(given)
        if -len(sizes) <= place < len(sizes) and sizes[place] == self._stream.size:
            sizes[place] = self._bases.size
        return self._build.ints(*sizes)

    def _resized_parts(self, node: onnx_ir.Node, axis: int) -> onnx_ir.Value:
        """Return a shape that is put together of single sizes, with fewer channels."""
        maker = None if node.inputs[1] is None else node.inputs[1].producer()
        single = maker is not None and all(static_shape(v) == (1,) for v in maker.inputs)
        if maker is None or not is_op(maker, "Concat") or not single or axis >= len(maker.inputs):
            raise Mismatch(f"the shape that {node.op_type} '{node.name}' makes is computed")
        parts = list(maker.inputs)
        if constant_ints(parts[axis]) == (self._stream.size,):
            parts[axis] = self._build.ints(self._bases.size)
        elif constant_ints(parts[axis]) != (-1,):
            raise Mismatch(f"the channels that {node.op_type} '{node.name}' makes are computed")
        return self._build.op("Concat", *parts, attributes={"axis": 0})

    def _turned(self, value: onnx_ir.Value | None, axis: int, into: Floats) -> Floats:
        """Return a constant times a matrix along ``axis``; one number stands for all channels."""
        array = constant(value)
        assert array is not None
        lead = max(-axis, 0)
        wide = array.astype(np.float64).reshape((1,) * lead + array.shape)
        place = axis + lead
        shape = list(wide.shape)
        if shape[place] not in (1, self._stream.size):
            raise Mismatch(f"the constant of shape {array.shape} does not lie along the channels")
        shape[place] = self._stream.size
        found = np.tensordot(np.broadcast_to(wide, shape), into, axes=(place, 0))
        return np.asarray(np.moveaxis(found, -1, place))


def _constant(array: Floats, like: onnx_ir.Value | None, build: Builder) -> onnx_ir.Value:
    assert like is not None
    assert like.dtype is not None
    return build.constant(array.astype(like.dtype.numpy()), like.name or "")


def _vector(value: onnx_ir.Value | None, size: int) -> Floats | None:
    array = constant(value)
    return None if array is None else np.broadcast_to(array.astype(np.float64).reshape(-1), (size,))


def _linear(node: onnx_ir.Node) -> Linear:
    weight = node.inputs[1]
    assert weight is not None
    if is_op(node, "Gemm") and attribute_float(node, "beta", 1.0) != 1.0:
        raise Mismatch(f"the bias of '{node.name}' is scaled")
    return checked(Linear(node, weight, node.inputs[2] if len(node.inputs) > 2 else None))
