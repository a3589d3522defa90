"""Lift rotary position embeddings to one operator."""

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, dimensions, is_op
from whet.passes.attention.angle_tables import AngleTables, Layout, layout_of
from whet.passes.attention.half_angles import Halver
from whet.passes.attention.last_axis import last_size, parts_of
from whet.passes.attention.rotation import Rotation, quarter_turn, read_rotation
from whet.passes.base import Fidelity, Pass
from whet.passes.forms import Range, same_shape, slice_node
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

_SINCE = 23
_SWAP = (0, 2, 1, 3)
_TYPES = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16})


@dataclasses.dataclass(frozen=True)
class LiftRotaryEmbedding(Pass):
    """Replace ``x cos + (-x2, x1) sin`` by ``RotaryEmbedding(x, cos, sin)``.

    x1 and x2 are the halves of x or its even and odd elements. x is ``[batch, heads, length, size]``, or ``[batch,
    length, heads, size]``, which is transposed before and after; cos and sin become ``[batch, length, r / 2]``, r
    being the features that are turned: all, or the first ones of a larger tensor where the rest is concatenated behind
    them. Models write the angles twice along the last axis; what makes the halves equal has to be in the graph. Su et
    al., RoFormer, arXiv 2104.09864.

    Rows gathered from tables stay gathered outside: the operator's own ``position_ids`` may not be negative, those of
    a Gather may.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    def apply(self, work: Workbench) -> None:
        """Visit every node that could end a rotation."""
        constants: dict[Hashable, onnx_ir.Value] = {}
        for node in work.nodes("Add", "Concat", "Reshape", "Flatten"):
            rotation = None if node.graph is None else read_rotation(node)
            if rotation is not None:
                self._visit(node, rotation, constants, work)
        for node in work.nodes("Concat", "Reshape", "Flatten"):
            _say_what_is_left(node, work)

    def _visit(
        self,
        root: onnx_ir.Node,
        rotation: Rotation,
        constants: dict[Hashable, onnx_ir.Value],
        work: Workbench,
    ) -> None:
        work.coverage.matched += 1
        build, known = work.builder(root), dict(constants)
        try:
            if work.opset < _SINCE:
                raise Mismatch(f"opset {work.opset} has no RotaryEmbedding")
            proposal = _lifted(root, rotation, build, known)
        except Mismatch as reason:
            work.decline(root, str(reason))
            Proposal((root,), (), tuple(build.nodes)).discard()
            return
        if work.propose(proposal):
            constants.update(known)


def _lifted(
    root: onnx_ir.Node,
    rotation: Rotation,
    build: Builder,
    constants: dict[Hashable, onnx_ir.Value],
) -> Proposal:
    place = _partial(root, rotation) or _complete(root, rotation, build)
    size = last_size(place.x) or 0
    pairs = (place.turned or size) // 2
    if place.x.dtype not in _TYPES:
        raise Mismatch(f"RotaryEmbedding does not take {place.x.dtype}")
    layout = layout_of(place.x, rotation.cos, pairs * (2 if rotation.doubled else 1))
    if layout != layout_of(place.x, rotation.sin, pairs * (2 if rotation.doubled else 1)):
        raise Mismatch("cosines and sines belong to different axes")
    halver = Halver(build, rotation.interleaved)
    tables = AngleTables(layout, halver, rotation.doubled, constants)
    cos, sin = tables.table(rotation.cos), tables.table(rotation.sin)
    y = _rotary(place, layout, (cos, sin), rotation, build)
    old = dict.fromkeys((place.end, root, *rotation.nodes, *place.nodes, *halver.nodes))
    pairs_of_values = ((place.end.outputs[0], y),)
    return Proposal(tuple(old), pairs_of_values, tuple(build.nodes), tuple(build.initializers))


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the operator will take, and which node's result it gives."""

    x: onnx_ir.Value
    end: onnx_ir.Node
    turned: int = 0
    """How many of the features of x are turned, the first ones; 0 stands for all."""
    nodes: tuple[onnx_ir.Node, ...] = ()


def _complete(root: onnx_ir.Node, rotation: Rotation, build: Builder) -> _Place:
    """Return the place where a tensor is turned as a whole."""
    for part in rotation.levels:
        if part.indices == range(last_size(part.source) or 0):
            return _checked(_Place(part.source, root))
    part = rotation.levels[0]
    taken = Range(-1, part.indices.start, part.indices.stop)
    x = slice_node(build, root, part.source, [taken])
    x.type, sizes = part.source.type, dimensions(part.source) or ()
    x.shape = onnx_ir.Shape([*sizes[:-1], len(part.indices)])
    return _checked(_Place(x, root))


def _checked(place: _Place) -> _Place:
    if not same_shape(place.x, place.end.outputs[0]):
        found = dimensions(place.end.outputs[0])
        raise Mismatch(f"{dimensions(place.x)} becomes {found}: not known to be the same shape")
    return place


def _partial(root: onnx_ir.Node, rotation: Rotation) -> _Place | None:
    """Return the place where the first features are turned and the rest is concatenated behind them."""
    y = root.outputs[0]
    readers = [use.node for use in y.uses()]
    if len(readers) != 1 or y.is_graph_output():
        return None
    pair = _last_axis_operands(readers[0])
    if pair is None or pair[0] is not y:
        return None
    for part in rotation.levels:
        size = last_size(part.source) or 0
        for rest in parts_of(pair[1]):
            behind = rest.source is part.source and rest.indices == range(part.indices.stop, size)
            if behind and part.indices.start == 0 and len(rest.indices):
                place = _Place(part.source, readers[0], len(part.indices), rest.nodes)
                return _checked(place)
    return None


def _last_axis_operands(node: onnx_ir.Node) -> tuple[onnx_ir.Value, onnx_ir.Value] | None:
    rank = len(dimensions(node.outputs[0]) or ())
    if not is_op(node, "Concat") or len(node.inputs) != 2 or rank == 0:
        return None
    first, second = node.inputs
    if attribute_int(node, "axis", 0) % rank != rank - 1 or first is None or second is None:
        return None
    return first, second


def _rotary(
    place: _Place,
    layout: Layout,
    tables: tuple[onnx_ir.Value, onnx_ir.Value],
    rotation: Rotation,
    build: Builder,
) -> onnx_ir.Value:
    attributes: dict[str, Attribute] = {"interleaved": int(rotation.interleaved)}
    if place.turned:
        attributes["rotary_embedding_dim"] = place.turned
    if layout.heads == 1:
        return build.op("RotaryEmbedding", place.x, *tables, attributes=attributes)
    x = build.op("Transpose", place.x, attributes={"perm": _SWAP})
    y = build.op("RotaryEmbedding", x, *tables, attributes=attributes)
    return build.op("Transpose", y, attributes={"perm": _SWAP})


def _say_what_is_left(node: onnx_ir.Node, work: Workbench) -> None:
    """Record quarter turns that belong to no rotation."""
    found = quarter_turn(node.outputs[0]) if is_op(node, node.op_type) and node.outputs else None
    if found is None or found[0].nodes[0] is not node:
        return
    for use in node.outputs[0].uses():
        for sum_ in (reader.node for reader in use.node.outputs[0].uses()):
            if (sum_.name or sum_.op_type) in work.coverage.declined:
                return
    work.near_miss(node, "(-x2, x1) is not multiplied by sines and added to x times cosines")
