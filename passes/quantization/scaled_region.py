"""The nodes between which a positive scale per channel can be moved: out of one operator, into all that read it.

With y = f(x), f homogeneous in each channel: W (f(x)) = (W s) f(x / s). The operator that makes x takes 1 / s into its
weights, the readers take s, everything between works on scaled values. Channels that something else reads keep
scale 1: they are *frozen*.
"""

import dataclasses
import heapq
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.channel_layout import Layout, forward, is_linear
from whet.errors import Mismatch
from whet.ir.values import constant, is_constant, is_op, rank
from whet.passes.fusion.linear import Affine, Linear
from whet.passes.proposal import Builder, Proposal

__all__ = ["Reader", "Region", "Writer", "find_region", "moved"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


_BLIND = ("Shape", "Size")
"""Operators that read no numbers."""


class Writer(Protocol):
    """What makes the values that are scaled, and can do so itself."""

    @property
    def node(self) -> onnx_ir.Node:
        """Return the operator."""
        ...

    @property
    def layout(self) -> Layout:
        """Return where the channels of its result lie."""
        ...

    def scaled(self, factors: Floats, build: Builder) -> onnx_ir.Value:
        """Return the result multiplied by a factor per channel, at no cost."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """A linear operator that reads scaled values."""

    linear: Linear
    value: onnx_ir.Value
    labels: Labels
    """The channel of each of its inputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A writer, its readers, and what lies between."""

    writer: Writer
    between: tuple[onnx_ir.Node, ...]
    """Nodes that work on scaled values, in the order of the graph."""
    readers: tuple[Reader, ...]
    layouts: Mapping[onnx_ir.Value, Layout]
    frozen: NDArray[np.bool_]
    """Channels that must keep scale 1."""

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return self.frozen.size


def find_region(writer: Writer, order: Mapping[onnx_ir.Node, int]) -> Region:
    """Return the region behind ``writer``; raises Mismatch with what freezes the last free channel.

    ``order`` is the position of every node in the graph.
    """
    search = _Search(writer, order)
    search.follow()
    return search.region()


class _Search:
    def __init__(self, writer: Writer, order: Mapping[onnx_ir.Node, int]) -> None:
        self._writer = writer
        self._order = order
        layout = writer.layout
        self._frozen = np.zeros(int(layout.labels().max()) + 1, np.bool_)
        self._layouts: dict[onnx_ir.Value, Layout] = {}
        self._between: list[onnx_ir.Node] = []
        self._readers: list[Reader] = []
        self._waiting: list[tuple[int, onnx_ir.Node]] = []
        self._seen: set[onnx_ir.Node] = set()
        self._enter(writer.node.outputs[0], layout)

    def follow(self) -> None:
        """Visit everything downstream that reads a free channel, in the order of the graph."""
        while self._waiting:
            _, node = heapq.heappop(self._waiting)
            known = {
                k: self._layouts[v] for k, v in enumerate(node.inputs) if v in self._layouts
            }  # fmt: skip
            if all(self._frozen[layout.labels()].all() for layout in known.values()):
                continue
            try:
                self._visit(node, known)
            except Mismatch as reason:
                self._freeze(known.values(), str(reason))

    def _visit(self, node: onnx_ir.Node, known: Mapping[int, Layout]) -> None:
        if is_linear(node):
            self._readers.append(_reader(node, known))
            return
        if is_op(node, "Attention") and len(known) > 1 and 2 in known:
            # Queries and keys of the same projection stay as they are, values can still be scaled.
            reason = f"Attention '{node.name}' compares queries and keys"
            self._freeze([layout for k, layout in known.items() if k != 2], reason)
            known = {2: known[2]}
        outputs = [] if is_op(node, *_BLIND) else forward(node, known)
        self._between.append(node)
        for value, layout in zip(node.outputs, outputs, strict=False):
            if layout is not None:
                self._enter(value, layout)

    def _enter(self, value: onnx_ir.Value, layout: Layout) -> None:
        self._layouts[value] = layout
        if value.is_graph_output():
            self._freeze([layout], f"'{value.name}' is an output of the model")
        for node in value.consumers():
            if node not in self._order:
                self._freeze([layout], f"'{value.name}' is read in a subgraph")
            elif node not in self._seen:
                self._seen.add(node)
                heapq.heappush(self._waiting, (self._order[node], node))

    def _freeze(self, layouts: Iterable[Layout], reason: str) -> None:
        for layout in layouts:
            self._frozen[layout.labels()] = True
        if self._frozen.all():
            raise Mismatch(reason)

    def region(self) -> Region:
        """Return what was found, without the parts that only see frozen channels."""
        readers = tuple(r for r in self._readers if not self._frozen[r.labels].all())
        if not readers:
            raise Mismatch("no linear operator reads it")
        kept: list[onnx_ir.Node] = []
        for node in self._between:
            read = [self._layouts[v] for v in node.inputs if v in self._layouts]
            if not all(self._frozen[layout.labels()].all() for layout in read):
                kept.append(node)
        return Region(self._writer, tuple(kept), readers, self._layouts, self._frozen)


def _reader(node: onnx_ir.Node, known: Mapping[int, Layout]) -> Reader:
    value, weight = node.inputs[0], node.inputs[1]
    assert value is not None
    assert weight is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if set(known) != {0}:
        raise Mismatch(f"{node.op_type} '{node.name}' reads scaled values elsewhere than as data")
    if len(weight.uses()) > 1 or weight.is_graph_output():
        raise Mismatch(f"weight '{weight.name}' is shared: it would be stored twice")
    linear = checked(Linear(node, weight, bias))
    labels = known[0].single(linear.axis_in)
    if labels.size != linear.channels_in:
        raise Mismatch(f"{labels.size} channels where '{node.name}' reads {linear.channels_in}")
    return Reader(linear, value, labels)


def checked(linear: Linear) -> Linear:
    """Decline weights that scaling would round again, and products with more than one matrix."""
    array = linear.array
    if array.dtype.name not in {"float32", "float64"}:
        raise Mismatch(f"the weight is {array.dtype.name}: scaling would round it again")
    if linear.node.op_type in {"Gemm", "MatMul"} and array.ndim != 2:
        raise Mismatch(f"the weight '{linear.weight.name}' has rank {array.ndim}, not 2")
    return linear


def moved(region: Region, scales: Floats, build: Builder) -> Proposal:
    """Return the rewrite that divides the channels by ``scales`` and multiplies them in the readers."""
    if not (
        np.isfinite(scales).all() and (scales > 0).all() and (scales[region.frozen] == 1).all()
    ):
        raise Mismatch("a scale is not positive and finite, or not 1 where the channel is frozen")
    places: dict[onnx_ir.Node, onnx_ir.Node] = {}
    new: dict[onnx_ir.Value, onnx_ir.Value] = {}
    first = region.writer.node
    new[first.outputs[0]] = region.writer.scaled(1 / scales, build)
    _place(build, places, first)
    for node in region.between:
        _copy(node, region, scales, new, build)
        _place(build, places, node)
    outputs: list[tuple[onnx_ir.Value, onnx_ir.Value]] = []
    for reader in region.readers:
        factors = Affine(scales[reader.labels], np.zeros(reader.labels.size))
        outputs.append(
            (reader.linear.node.outputs[0], reader.linear.after(factors, new[reader.value], build))
        )
        _place(build, places, reader.linear.node)
    for old, value in new.items():
        value.type, value.shape = old.type, old.shape
    inside = {first, *region.between, *(reader.linear.node for reader in region.readers)}
    outputs += [(old, value) for old, value in new.items() if _read_outside(old, inside)]
    return Proposal(
        (first, *sorted(inside - {first}, key=lambda node: node.name or "")),
        tuple(outputs),
        tuple(build.nodes),
        tuple(build.initializers),
        places,
    )


def _place(build: Builder, places: dict[onnx_ir.Node, onnx_ir.Node], old: onnx_ir.Node) -> None:
    places.update((node, old) for node in build.nodes if node not in places)


def _read_outside(value: onnx_ir.Value, inside: set[onnx_ir.Node]) -> bool:
    return value.is_graph_output() or any(node not in inside for node in value.consumers())


def _copy(
    node: onnx_ir.Node,
    region: Region,
    scales: Floats,
    new: dict[onnx_ir.Value, onnx_ir.Value],
    build: Builder,
) -> None:
    """Add the node on scaled values; constants that it adds are scaled too."""
    inputs = [None if v is None else new.get(v, v) for v in node.inputs]
    if is_op(node, "Add", "Sub"):
        layout = region.layouts[node.outputs[0]]
        inputs = [
            _scaled_constant(v, layout, scales, build) if is_constant(v) else v for v in inputs
        ]
    made = build.ops(
        node.op_type, inputs, len(node.outputs), domain=node.domain, attributes=node.attributes
    )
    new.update(zip(node.outputs, made, strict=True))


def _scaled_constant(
    value: onnx_ir.Value | None, layout: Layout, scales: Floats, build: Builder
) -> onnx_ir.Value:
    array = constant(value)
    assert array is not None
    assert value is not None
    spread = layout.spread(1 / scales)
    while spread.ndim > array.ndim and spread.shape[0] == 1:
        spread = spread[0]
    scaled = (array.astype(np.float64) * spread).astype(array.dtype)
    return build.constant(scaled, value.name or "")


def positions(nodes: Iterable[onnx_ir.Node]) -> dict[onnx_ir.Node, int]:
    """Return the position of every node."""
    return {node: k for k, node in enumerate(nodes)}


@dataclasses.dataclass(frozen=True, eq=False)
class LinearWriter:
    """A linear operator: its output channels."""

    linear: Linear

    @staticmethod
    def of(node: onnx_ir.Node) -> "LinearWriter":
        """Read it, or decline."""
        if not is_linear(node):
            raise Mismatch("it has no constant weight")
        weight = node.inputs[1]
        assert weight is not None
        if len(weight.uses()) > 1 or weight.is_graph_output():
            raise Mismatch(f"weight '{weight.name}' is shared: it would be stored twice")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not is_constant(bias):
            raise Mismatch("its bias is computed")
        return LinearWriter(checked(Linear(node, weight, bias)))

    @property
    def node(self) -> onnx_ir.Node:
        """Return the operator."""
        return self.linear.node

    @property
    def layout(self) -> Layout:
        """Return its output channels."""
        value = self.node.outputs[0]
        size = rank(value)
        if size is None:
            raise Mismatch(f"the rank of '{value.name}' is not known")
        axis = self.linear.axis if self.node.op_type != "MatMul" else size - 1
        return Layout.along(axis, size, self.linear.channels)

    def scaled(self, factors: Floats, build: Builder) -> onnx_ir.Value:
        """Return the operator with scaled weights and bias."""
        return self.linear.then(Affine(factors, np.zeros(factors.size)), build)


@dataclasses.dataclass(frozen=True, eq=False)
class NormWriter:
    """The scale and the bias of a normalization over the last axis."""

    node: onnx_ir.Node

    @staticmethod
    def of(node: onnx_ir.Node) -> "NormWriter":
        """Read it, or decline."""
        size = rank(node.outputs[0])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        if size is None or axis % size != size - 1:
            raise Mismatch("it does not normalize the last axis alone")
        arrays = [constant(value) for value in node.inputs[1:]]
        if any(array is None or array.ndim != 1 for array in arrays):
            raise Mismatch("its scale or bias is no constant vector")
        return NormWriter(node)

    @property
    def layout(self) -> Layout:
        """Return the last axis."""
        scale, size = constant(self.node.inputs[1]), rank(self.node.outputs[0])
        assert scale is not None
        assert size is not None
        return Layout.along(-1, size, scale.size)

    def scaled(self, factors: Floats, build: Builder) -> onnx_ir.Value:
        """Return the normalization with scaled parameters."""
        inputs = [self.node.inputs[0]]
        for value in self.node.inputs[1:]:
            array = constant(value)
            assert array is not None
            assert value is not None
            inputs.append(
                build.constant(
                    (array.astype(np.float64) * factors).astype(array.dtype), value.name or ""
                )
            )
        return build.op(self.node.op_type, *inputs, attributes=self.node.attributes)


@dataclasses.dataclass(frozen=True, eq=False)
class GainWriter:
    """A product with a constant vector, such as a layer scale."""

    node: onnx_ir.Node
    operand: int
    """Which operand is the vector."""
    axis: int

    @staticmethod
    def of(node: onnx_ir.Node) -> "GainWriter":
        """Read it, or decline."""
        size = rank(node.outputs[0])
        for operand, value in enumerate(node.inputs):
            array = constant(value)
            if array is None or size is None or array.ndim > size:
                continue
            axes = [k for k, n in enumerate(array.shape) if n > 1]
            if len(axes) == 1:
                return GainWriter(node, operand, axes[0] - array.ndim)
        raise Mismatch("it does not multiply by a constant vector")

    @property
    def layout(self) -> Layout:
        """Return the axis along which the vector lies."""
        array, size = constant(self.node.inputs[self.operand]), rank(self.node.outputs[0])
        assert array is not None
        assert size is not None
        return Layout.along(self.axis, size, array.size)

    def scaled(self, factors: Floats, build: Builder) -> onnx_ir.Value:
        """Return the product with a scaled vector."""
        value = self.node.inputs[self.operand]
        array = constant(value)
        assert array is not None
        assert value is not None
        vector = (
            (array.reshape(-1).astype(np.float64) * factors)
            .astype(array.dtype)
            .reshape(array.shape)
        )
        inputs = list(self.node.inputs)
        inputs[self.operand] = build.constant(vector, value.name or "")
        return build.op(self.node.op_type, *inputs)
