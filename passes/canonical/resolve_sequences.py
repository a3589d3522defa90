"""Replace sequences of tensors by the tensors that are in them."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant, constant_ints, dimensions, is_op
from whet.passes.base import Fidelity, Pass
from whet.passes.forms import Range, axes_node, from_zero, known_rank, opset_of, slice_node
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

_CHANGES = ("SequenceInsert", "SequenceErase", "Identity")
_Found = tuple[tuple[onnx_ir.Node, ...], tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]]
"""The old nodes, root first, and (old value, new value) pairs."""


@dataclasses.dataclass(frozen=True)
class ResolveSequences(Pass):
    """Replace ``SequenceAt(SplitToSequence(x), i)`` by a piece of ``x``, and sequences of tensors by these tensors.

    Exporters spell chunking as a sequence, which nothing looks through. Where the size of ``x`` along the axis is known
    and several pieces are read they become the outputs of one Split, else Slices, or a Gather where the axis goes.
    ``SequenceAt`` and ``ConcatFromSequence`` of tensors that were put in one by one become the tensor and a Concat.
    Positions must be constants.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Visit what cuts tensors into sequences, then what reads other sequences."""
        for node in work.nodes("SplitToSequence"):
            _visit(node, _pieces_read, work)
        for node in work.nodes("SequenceAt", "ConcatFromSequence"):
            if not _is_cut(node.inputs[0]):
                _visit(node, _element_read, work)


def _visit(
    node: onnx_ir.Node, resolve: Callable[[onnx_ir.Node, Builder], _Found], work: Workbench
) -> None:
    if not is_op(node, node.op_type):
        return
    work.coverage.matched += 1
    build = work.builder(node)
    try:
        old, outputs = resolve(node, build)
    except Mismatch as reason:
        work.decline(node, str(reason))
        Proposal((node,), (), tuple(build.nodes)).discard()
        return
    work.propose(Proposal(old, outputs, tuple(build.nodes), tuple(build.initializers)))


def _is_cut(value: onnx_ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "SplitToSequence")


def _maker(value: onnx_ir.Value | None) -> onnx_ir.Node:
    node = None if value is None else value.producer()
    if node is None:
        raise Mismatch("the sequence is an input of the model")
    return node


# --- SplitToSequence ---


@dataclasses.dataclass(frozen=True)
class _Cutting:
    """How ``SplitToSequence`` cuts its operand."""

    x: onnx_ir.Value
    axis: int
    sizes: tuple[int, ...] | None
    """The size of every piece, if known."""
    step: int | None
    """The size of all pieces but the last, if they are cut at equal distance."""
    drop: bool
    """Pieces are single, and without the axis."""

    def range(self, index: int) -> Range:
        """Return what piece number ``index`` takes of the axis."""
        if self.sizes is not None:
            count = len(self.sizes)
            if not -count <= index < count:
                raise Mismatch(f"piece {index} is read, there are {count}")
            start = sum(self.sizes[: index % count])
            return Range(self.axis, start, start + self.sizes[index % count])
        assert self.step is not None
        if index < 0:
            raise Mismatch("pieces are counted from the end of an axis of unknown size")
        return Range(self.axis, index * self.step, (index + 1) * self.step)


def _pieces_read(node: onnx_ir.Node, build: Builder) -> _Found:
    """Replace every ``SequenceAt`` that reads the pieces."""
    cutting = _cutting(node)
    readers = _readers(node)
    taken = [cutting.range(_position(reader)) for reader in readers]
    if len(set(taken)) > 1 and cutting.sizes is not None and not cutting.drop:
        pieces = _split(cutting, cutting.sizes, node, build)
        new = [pieces[_position(reader)] for reader in readers]
    else:
        made = {part: _take(part, cutting, node, build) for part in dict.fromkeys(taken)}
        new = [made[part] for part in taken]
    pairs = [(reader.outputs[0], value) for reader, value in zip(readers, new, strict=True)]
    return (node, *readers), tuple(pairs)


def _cutting(node: onnx_ir.Node) -> _Cutting:
    x = node.inputs[0]
    assert x is not None
    axis = from_zero((attribute_int(node, "axis", 0),), known_rank(x))[0]
    size = (dimensions(x) or ())[axis]
    total = size if isinstance(size, int) else None
    drop = attribute_int(node, "keepdims", 1) == 0
    split = node.inputs[1] if len(node.inputs) > 1 else None
    if split is None:
        single = None if total is None else (1,) * total
        return _Cutting(x, axis, single, 1, drop)
    if drop:  # ONNX says that it is ignored, ONNX Runtime fails or drops the axis of single pieces
        raise Mismatch("keepdims is 0 though sizes are given")
    array, sizes = constant(split), constant_ints(split)
    if array is None or sizes is None:
        raise Mismatch("the sizes of the pieces are computed at run time")
    if array.ndim:
        return _Cutting(x, axis, sizes, None, drop=False)
    step = sizes[0]
    known = None if total is None else _chunks(total, step)
    return _Cutting(x, axis, known, step, drop=False)


def _chunks(total: int, step: int) -> tuple[int, ...]:
    return tuple(min(step, total - start) for start in range(0, total, step))


def _readers(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    sequence = node.outputs[0]
    if sequence.is_graph_output():
        raise Mismatch("the sequence is an output of the model")
    readers = list(dict.fromkeys(use.node for use in sequence.uses()))
    for reader in readers:
        if reader.graph is not node.graph or not is_op(reader, "SequenceAt"):
            raise Mismatch(f"{reader.op_type} '{reader.name}' reads the sequence as well")
    if not readers:
        raise Mismatch("nothing reads the sequence")
    return readers


def _position(node: onnx_ir.Node) -> int:
    found = constant_ints(node.inputs[1])
    if found is None or len(found) != 1:
        raise Mismatch(f"the position that '{node.name}' reads is computed at run time")
    return found[0]


def _split(
    cutting: _Cutting, sizes: tuple[int, ...], near: onnx_ir.Node, build: Builder
) -> tuple[onnx_ir.Value, ...]:
    attributes: dict[str, Attribute] = {"axis": cutting.axis}
    if opset_of(near) < 13:
        attributes["split"] = sizes
        return build.ops("Split", [cutting.x], len(sizes), attributes=attributes)
    return build.ops("Split", [cutting.x, build.ints(*sizes)], len(sizes), attributes=attributes)


def _take(part: Range, cutting: _Cutting, near: onnx_ir.Node, build: Builder) -> onnx_ir.Value:
    if not cutting.drop:
        return slice_node(build, near, cutting.x, [part])
    index = build.constant(np.asarray(part.start, dtype=np.int64))
    return build.op("Gather", cutting.x, index, attributes={"axis": cutting.axis})


# --- Sequences that are made tensor by tensor ---


def _element_read(node: onnx_ir.Node, build: Builder) -> _Found:
    """Replace one reader of a sequence by what it reads."""
    makers, elements = _elements(node.inputs[0])
    if node.op_type == "SequenceAt":
        new = _at(elements, _position(node))
    else:
        new = _joined(node, elements, build)
    return (node, *makers), ((node.outputs[0], new),)


def _elements(value: onnx_ir.Value | None) -> tuple[list[onnx_ir.Node], list[onnx_ir.Value]]:
    """Return the nodes that make a sequence, last first, and its elements."""
    makers = [_maker(value)]
    while is_op(makers[-1], *_CHANGES):
        makers.append(_maker(makers[-1].inputs[0]))
    first = makers[-1]
    if not is_op(first, "SequenceConstruct", "SequenceEmpty"):
        raise Mismatch(f"the sequence comes from {first.op_type} '{first.name}'")
    elements = [v for v in first.inputs if v is not None]
    for node in reversed(makers[:-1]):
        _change(node, elements)
    return makers, elements


def _change(node: onnx_ir.Node, elements: list[onnx_ir.Value]) -> None:
    count = len(elements)
    if node.op_type == "SequenceInsert" and node.inputs[1] is not None:
        elements.insert(_place(node, 2, count, range(-count, count + 1)), node.inputs[1])
    elif node.op_type == "SequenceErase":
        elements.pop(_place(node, 1, -1, range(-count, count)))


def _place(node: onnx_ir.Node, at: int, default: int, valid: range) -> int:
    value = node.inputs[at] if at < len(node.inputs) else None
    found = (default,) if value is None else constant_ints(value)
    if found is None:
        raise Mismatch(f"the position of {node.op_type} '{node.name}' is computed at run time")
    if len(found) != 1 or found[0] not in valid:
        raise Mismatch(f"{node.op_type} '{node.name}' is at {found}, valid are {valid}")
    return found[0]


def _at(elements: list[onnx_ir.Value], index: int) -> onnx_ir.Value:
    if not -len(elements) <= index < len(elements):
        raise Mismatch(f"element {index} is read, there are {len(elements)}")
    return elements[index]


def _joined(node: onnx_ir.Node, elements: list[onnx_ir.Value], build: Builder) -> onnx_ir.Value:
    """Return the concatenation, along a new axis if asked for."""
    _at(elements, 0)
    axis = attribute_int(node, "axis", 0)
    if attribute_int(node, "new_axis", 0):
        made = {v: axes_node(build, node, "Unsqueeze", v, [axis]) for v in dict.fromkeys(elements)}
        elements = [made[v] for v in elements]
    return build.op("Concat", *elements, attributes={"axis": axis})
