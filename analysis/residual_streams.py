"""Find residual streams: the values that Adds join, who writes into them and who reads them.

In a pre-norm network every block reads the stream through a normalization and adds its result to it. All values of a
stream have the same channels in the same basis, so a matrix applied to all of them at once (a rotation, the removal of
channels) can be taken into what writes and what reads, if nothing else looks at them. Whatever does is an *obstacle*.
"""

import dataclasses
from collections.abc import Iterable

import onnx_ir

from whet.analysis.channel_layout import Layout, is_linear, regrouped
from whet.analysis.residual_branches import find_branches
from whet.errors import Mismatch
from whet.ir.values import (
    attribute_int,
    attribute_ints,
    constant,
    constant_ints,
    dimensions,
    is_constant,
    is_op,
    rank,
)  # fmt: skip

__all__ = ["NormReader", "ResidualStream", "find_residual_streams", "tied_table"]

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_SHAPED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_REDUCED = ("ReduceMean", "ReduceSum")
_BLIND = ("Shape", "Size")


@dataclasses.dataclass(eq=False)
class NormReader:
    """A normalization that reads the stream, and the linear operators that read it."""

    node: onnx_ir.Node
    between: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    """Operators that move normalized values."""
    readers: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])


@dataclasses.dataclass(eq=False)
class ResidualStream:
    """Values in one basis, and everything that touches them."""

    size: int
    axes: dict[onnx_ir.Value, int] = dataclasses.field(default_factory=dict[onnx_ir.Value, int])
    """Value -> the axis of its channels; normalized values and constants that are added included."""
    writers: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    """Linear operators, and Gathers from a constant table."""
    joints: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    """Additions, and operators that move values without touching channels."""
    norms: list[NormReader] = dataclasses.field(default_factory=list[NormReader])
    readers: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    """Linear operators that read the stream itself."""
    obstacles: dict[onnx_ir.Node, str] = dataclasses.field(default_factory=dict[onnx_ir.Node, str])
    """What cannot take part, with the reason."""
    entries: list[onnx_ir.Value] = dataclasses.field(default_factory=list[onnx_ir.Value])
    """Values of a normalization in front of the stream, where ends are open."""
    exits: dict[onnx_ir.Value, NormReader | None] = dataclasses.field(
        default_factory=dict[onnx_ir.Value, NormReader | None]
    )
    """Values that are outputs of the model, where ends are open, with what has normalized them."""

    @property
    def centered(self) -> bool:
        """Tell whether a normalization subtracts the mean."""
        return any(norm.node.op_type == "LayerNormalization" for norm in self.norms)


def find_residual_streams(graph: onnx_ir.Graph, *, open_ends: bool = False) -> list[ResidualStream]:
    """Return every stream that a normalization reads and that an addition writes into, with its obstacles.

    With ``open_ends`` a normalization may stand in front of the stream, as behind embeddings, and values of the stream
    may be outputs of the model: both are no obstacles then, but left to the caller.
    """
    found: list[ResidualStream] = []
    seen: set[onnx_ir.Value] = set()
    for node in graph:
        value = node.inputs[0] if is_op(node, *_NORMS) else None
        if value is None or value in seen or not _is_plain(node):
            continue
        stream = _Flood(graph, value, open_ends=open_ends).run()
        if open_ends and _begins_behind(stream, node):
            continue
        seen.update(stream.axes)
        moved = [*stream.joints, *(node for norm in stream.norms for node in norm.between)]
        if stream.norms and any(is_op(node, "Add") for node in moved):
            found.append(stream)
    return found


def _begins_behind(stream: ResidualStream, first: onnx_ir.Node) -> bool:
    """Tell whether what the first normalization hands on is normalized again: a stream may begin behind it."""
    return any(
        norm.node is first and any(is_op(node, "Add") for node in norm.between)
        for norm in stream.norms
    ) and any("normalizes what was normalized" in reason for reason in stream.obstacles.values())


def _is_plain(norm: onnx_ir.Node) -> bool:
    """Tell whether it normalizes the last axis alone, by a constant scale."""
    size = rank(norm.inputs[0])
    if size is None or attribute_int(norm, "axis", -1) % size != size - 1:
        return False
    return all(v is None or is_constant(v) for v in norm.inputs[1:])


class _Flood:
    """Spread from one value over everything in the same basis, upstream and downstream."""

    def __init__(
        self, graph: onnx_ir.Graph, start: onnx_ir.Value, *, open_ends: bool = False
    ) -> None:
        self._open_ends = open_ends
        sizes = dimensions(start) or (None,)
        self._graph = graph
        self._stream = ResidualStream(sizes[-1] if isinstance(sizes[-1], int) else 0)
        self._normal: dict[onnx_ir.Value, NormReader] = {}
        self._visited: set[onnx_ir.Node] = set()
        self._waiting: list[onnx_ir.Value] = []
        self._start = start

    def run(self) -> ResidualStream:
        """Return the stream around the value."""
        if not self._stream.size:
            return self._stream
        self._enter(self._start, len(dimensions(self._start) or ()) - 1, None)
        while self._waiting:
            value = self._waiting.pop()
            self._upstream(value)
            for node in value.consumers():
                self._downstream(value, node)
            if value.is_graph_output() and self._open_ends:
                self._stream.exits[value] = self._normal.get(value)
            elif value.is_graph_output():
                self._obstacle(value.producer(), f"'{value.name}' is an output of the model")
        self._close_entries()
        self._sort()
        return self._stream

    def _close_entries(self) -> None:
        """What normalizes the sum of a value and a branch, or reads the stream, does not stand in front of it."""
        if not self._stream.entries:
            return
        sums = {branch.output for branch in find_branches(self._graph)}
        read = {norm.node for norm in self._stream.norms}
        for value in self._stream.entries:
            node = value.producer()
            assert node is not None
            if node in read or node.inputs[0] in sums:
                self._obstacle(node, _post_norm(node))

    def _enter(self, value: onnx_ir.Value, axis: int, norm: NormReader | None) -> None:
        """Take a value in; ``norm`` says that it is normalized."""
        known = self._stream.axes.get(value)
        if known is None:
            self._stream.axes[value] = axis
            if norm is not None:
                self._normal[value] = norm
            if not is_constant(value):
                self._waiting.append(value)
        elif known != axis or self._normal.get(value) is not norm:
            self._obstacle(value.producer(), f"'{value.name}' is in two bases at once")

    def _obstacle(self, node: onnx_ir.Node | None, reason: str) -> None:
        site = node or next(iter(self._graph))
        self._stream.obstacles.setdefault(site, reason)

    def _upstream(self, value: onnx_ir.Value) -> None:
        node = value.producer()
        if node is None:
            self._obstacle(None, f"'{value.name}' is an input of the model")
        elif node not in self._visited:
            self._visited.add(node)
            self._made_by(value, node)

    def _made_by(self, value: onnx_ir.Value, node: onnx_ir.Node) -> None:
        if is_op(node, *_NORMS) and self._open_ends and value is node.outputs[0]:
            self._stream.entries.append(value)
        elif is_op(node, *_NORMS):
            self._obstacle(node, _post_norm(node))
        elif is_linear(node) or _is_lookup(node):
            self._stream.writers.append(node)
        else:
            self._pass(node)

    def _downstream(self, value: onnx_ir.Value, node: onnx_ir.Node) -> None:
        if node in self._visited and not _multiplies(node):
            return
        self._visited.add(node)
        norm = self._normal.get(value)
        if node.graph is not self._graph:
            self._obstacle(node, f"'{value.name}' is read in a subgraph")
        elif is_op(node, *_BLIND):
            self._kept(norm).append(node)
        elif is_op(node, *_NORMS):
            self._normalized(value, node, norm)
        elif _multiplies(node) and node.inputs[0] is value:
            self._read(value, node, norm)
        else:
            self._pass(node)

    def _kept(self, norm: NormReader | None) -> list[onnx_ir.Node]:
        return self._stream.joints if norm is None else norm.between

    def _normalized(
        self, value: onnx_ir.Value, node: onnx_ir.Node, norm: NormReader | None
    ) -> None:
        size = rank(value)
        if norm is not None:
            reason = (
                f"'{node.name}' normalizes what was normalized by '{norm.node.name}' and added to"
            )
            self._obstacle(node, f"{reason}: the network is post-norm")
        elif node.inputs[0] is not value or not _is_plain(node):
            self._obstacle(node, f"{node.op_type} '{node.name}' normalizes in another way")
        elif any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            self._obstacle(node, f"the deviation that '{node.name}' computes is read")
        elif size is None or self._stream.axes[value] != size - 1:
            self._obstacle(node, f"'{node.name}' normalizes another axis than the channels")
        else:
            reader = NormReader(node)
            self._stream.norms.append(reader)
            self._enter(node.outputs[0], size - 1, reader)

    def _read(self, value: onnx_ir.Value, node: onnx_ir.Node, norm: NormReader | None) -> None:
        readers = self._stream.readers if norm is None else norm.readers
        size = rank(value) or 0
        wanted = 1 if is_op(node, "Conv", "ConvTranspose") else size - 1
        if self._stream.axes[value] != wanted or attribute_int(node, "transA", 0):
            self._obstacle(node, f"{node.op_type} '{node.name}' reads another axis")
        elif node not in readers:
            readers.append(node)

    def _pass(self, node: onnx_ir.Node) -> None:
        """Follow an operator that leaves the basis alone to everything that it connects."""
        near = (v for v in (*node.inputs, *node.outputs) if v is not None)
        anchor = next(v for v in near if v in self._stream.axes)
        norm = self._normal.get(anchor)
        try:
            for value, axis in _connected(node, anchor, self._stream.axes[anchor]):
                self._check_size(value, axis, node)
                self._enter(value, axis, norm)
        except Mismatch as reason:
            self._obstacle(node, str(reason))
            return
        self._kept(norm).append(node)

    def _check_size(self, value: onnx_ir.Value, axis: int, node: onnx_ir.Node) -> None:
        sizes = dimensions(value)
        if is_constant(value):
            return
        if sizes is None or axis >= len(sizes) or sizes[axis] != self._stream.size:
            raise Mismatch(f"{node.op_type} '{node.name}' changes the number of channels")

    def _sort(self) -> None:
        order = {node: k for k, node in enumerate(self._graph)}
        for nodes in (self._stream.writers, self._stream.joints, self._stream.readers):
            nodes.sort(key=lambda node: order[node])
        self._stream.norms.sort(key=lambda norm: order[norm.node])
        for norm in self._stream.norms:
            norm.between.sort(key=lambda node: order[node])
            norm.readers.sort(key=lambda node: order[node])


def _post_norm(node: onnx_ir.Node) -> str:
    return f"{node.op_type} '{node.name}' writes into it: the network is post-norm"


def tied_table(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return the constant whose transposed form a MatMul multiplies by, as heads with tied embeddings do."""
    weight = node.inputs[1] if is_op(node, "MatMul") else None
    turned = None if weight is None else weight.producer()
    if turned is None or not is_op(turned, "Transpose"):
        return None
    table = turned.inputs[0]
    order = attribute_ints(turned, "perm")
    return table if is_constant(table) and rank(table) == 2 and order in (None, (1, 0)) else None


def _multiplies(node: onnx_ir.Node) -> bool:
    return is_linear(node) or tied_table(node) is not None


def _is_lookup(node: onnx_ir.Node) -> bool:
    """Tell whether the node takes rows of a constant table."""
    table = constant(node.inputs[0]) if is_op(node, "Gather") else None
    return table is not None and table.ndim == 2 and attribute_int(node, "axis", 0) in (0, -2)


def _connected(
    node: onnx_ir.Node, anchor: onnx_ir.Value, axis: int
) -> Iterable[tuple[onnx_ir.Value, int]]:
    """Return the other values in the same basis, with the axis of their channels, or decline."""
    size = rank(anchor)
    if size is None:
        raise Mismatch(f"the rank of '{anchor.name}' is not known")
    from_end = axis - size
    if is_op(node, "Add", "Sub", "Expand") or (is_op(node, "Mul", "Div") and _by_number(node)):
        data = node.inputs if is_op(node, "Add", "Sub") else _data(node)
        return _aligned((*data, *node.outputs[:1]), from_end)
    if is_op(node, "Split", "Concat", "Slice", "Identity", "Dropout", "Tile"):
        _leave_alone(node, axis, size)
        data = node.inputs if is_op(node, "Concat") else node.inputs[:1]
        outputs = node.outputs if is_op(node, "Split") else node.outputs[:1]
        return [(v, axis) for v in (*data, *outputs) if v is not None]
    return _moved(node, anchor, axis)


def _data(node: onnx_ir.Node) -> tuple[onnx_ir.Value | None, ...]:
    if is_op(node, "Expand", "Div"):
        return tuple(node.inputs[:1])
    return tuple(v for v in node.inputs if not is_constant(v))


def _by_number(node: onnx_ir.Node) -> bool:
    """Tell whether a product has one constant number as its other operand."""
    numbers = [constant(v) for v in (node.inputs[1:] if is_op(node, "Div") else node.inputs)]
    return any(array is not None and array.size == 1 for array in numbers)


def _aligned(
    values: Iterable[onnx_ir.Value | None], from_end: int
) -> Iterable[tuple[onnx_ir.Value, int]]:
    found: list[tuple[onnx_ir.Value, int]] = []
    for value in values:
        size = rank(value)
        if value is None or size is None:
            raise Mismatch("the rank of an operand is not known")
        found.append((value, size + from_end))
    return found


def _leave_alone(node: onnx_ir.Node, axis: int, size: int) -> None:
    """Decline where an operator works along the channels."""
    if is_op(node, "Split", "Concat"):
        touched: tuple[int, ...] | None = (attribute_int(node, "axis", 0),)
    elif is_op(node, "Slice"):
        given = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else tuple(range(size))
        touched = given
    elif is_op(node, "Tile"):
        repeats = constant_ints(node.inputs[1])
        touched = None if repeats is None else tuple(k for k, n in enumerate(repeats) if n != 1)
    else:
        touched = ()
    if touched is None or axis in {k % size for k in touched}:
        raise Mismatch(f"{node.op_type} '{node.name}' works along the channels")


def _moved(
    node: onnx_ir.Node, anchor: onnx_ir.Value, axis: int
) -> Iterable[tuple[onnx_ir.Value, int]]:
    """Follow an operator with one input and one output whose axes differ."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None or anchor not in (x, y):
        raise Mismatch(f"{node.op_type} '{node.name}' reads it elsewhere than as data")
    axes = _axis_pairs(node, x, y, axis, down=anchor is x)
    if axes is None:
        raise Mismatch(f"{node.op_type} '{node.name}' does not leave the channels alone")
    return [(x, axes[0]), (y, axes[1])]


def _axis_pairs(
    node: onnx_ir.Node, x: onnx_ir.Value, y: onnx_ir.Value, axis: int, *, down: bool
) -> tuple[int, int] | None:
    """Return the axis of the channels in the input and in the output."""
    old, new = dimensions(x), dimensions(y)
    if old is None or new is None:
        return None
    if is_op(node, *_SHAPED):
        other = _regrouped_axis(axis, old, new) if down else _regrouped_axis(axis, new, old)
        return None if other is None else ((axis, other) if down else (other, axis))
    maps = _axis_map(node, len(old))
    if maps is None:
        return None
    for before, after in maps.items():
        if (before if down else after) == axis:
            return before, after
    return None


def _regrouped_axis(
    axis: int, old: tuple[int | str | None, ...], new: tuple[int | str | None, ...]
) -> int | None:
    size = old[axis]
    if not isinstance(size, int):
        return None
    layout = regrouped(Layout.along(axis, len(old), size), old, new)
    places = [k for k, part in enumerate(layout.axes) if part is not None]
    return places[0] if len(places) == 1 and new[places[0]] == size else None


def _axis_map(node: onnx_ir.Node, size: int) -> dict[int, int] | None:
    """Return input axis -> output axis for those that the operator leaves alone."""
    if is_op(node, "Transpose"):
        order = attribute_ints(node, "perm") or tuple(reversed(range(size)))
        return {old: new for new, old in enumerate(order)}
    if is_op(node, "Gather"):
        at, added = attribute_int(node, "axis", 0) % size, rank(node.inputs[1])
        if added is None:
            return None
        return {k: k if k < at else k - 1 + added for k in range(size) if k != at}
    if is_op(node, *_REDUCED):
        given = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = given or attribute_ints(node, "axes")
        if axes is None:
            return None
        gone = {k % size for k in axes}
        kept = [k for k in range(size) if k not in gone]
        if attribute_int(node, "keepdims", 1):
            return {k: k for k in kept}
        return {k: n for n, k in enumerate(kept)}
    return None
