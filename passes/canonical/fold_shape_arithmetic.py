"""Compute shapes at compile time as far as they are known."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.size_arithmetic import Expression, Size
from whet.analysis.sizes import Content, KnownSizes, Sizes
from whet.ir.values import attribute_int, dimensions, is_constant, is_op
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class FoldShapeArithmetic(Pass):
    """Replace integers computed from fixed sizes by constants, and the target of a Reshape by a fixed one.

    ``Reshape(x, [batch, seq, 12, 64])`` becomes ``Reshape(x, [0, 0, 12, 64])`` where ``x`` has batch and seq in the
    same places, and ``[0, -1, 12, 64]`` where one size is not known: what is dynamic stays dynamic.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Sizes,)

    def apply(self, work: Workbench) -> None:
        """Visit reshapes and the last nodes of integer arithmetic."""
        known = work.analyses.get(Sizes())
        _annotate(work, known)
        for node in work.nodes():
            if is_op(node, "Reshape"):
                _fix_target(node, known, work)
            numbers = _numbers(node, known)
            if numbers is not None and _is_needed(node.outputs[0], known):
                _fold(node, numbers, known, work)


def _annotate(work: Workbench, known: KnownSizes) -> None:
    """Write sizes that turned out to be expressions over the model's own symbols into the values."""
    for node in work.nodes():
        for value in node.outputs:
            noted, found = dimensions(value), known.shape(value)
            if found is None or (noted is not None and len(noted) != len(found)):
                continue
            before = (None,) * len(found) if noted is None else noted
            if not all(isinstance(size, int) for size in before) or noted is None:
                pairs = zip(found, before, strict=True)
                value.shape = onnx_ir.Shape([_written(size, old) for size, old in pairs])


def _written(size: Size | None, old: int | str | None) -> int | str | None:
    if size is None or isinstance(old, int):
        return old
    return str(size) if isinstance(size, Expression) else size


def _numbers(node: onnx_ir.Node, known: KnownSizes) -> Content | None:
    """Return the content of the node's only output if all of it is known."""
    if len(node.outputs) != 1 or node.op_type == "Constant" or _is_stored(node):
        return None
    content = known.content(node.outputs[0])
    return content if content is not None and content.numbers is not None else None


def _is_stored(node: onnx_ir.Node) -> bool:
    """Tell whether the node only gives a constant the name of an output."""
    return node.op_type == "Identity" and is_constant(node.inputs[0])


def _is_needed(value: onnx_ir.Value, known: KnownSizes) -> bool:
    """Tell whether anything but integer arithmetic that is folded as well reads the value."""
    if value.is_graph_output():
        return True
    graph = value.graph
    readers = [use.node for use in value.uses()]
    return any(node.graph is not graph or _numbers(node, known) is None for node in readers)


def _sources(node: onnx_ir.Node, known: KnownSizes) -> tuple[onnx_ir.Node, ...]:
    """Return the node and the arithmetic it reads, readers first: only together are their values what they are."""
    found = {node: None}
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in found and known.content(value) is not None:
                found[producer] = None
                waiting.append(producer)
    return tuple(found)


def _fold(node: onnx_ir.Node, content: Content, known: KnownSizes, work: Workbench) -> None:
    old = node.outputs[0]
    kind = np.dtype(np.int64) if old.dtype is None else old.dtype.numpy()
    array = np.asarray(content.numbers, dtype=kind)
    build = work.builder(node)
    new = build.constant(array.reshape(()) if content.scalar else array)
    work.coverage.matched += 1
    outputs, weights = ((old, new),), tuple(build.initializers)
    work.propose(Proposal(_sources(node, known), outputs, (), weights))


def _fix_target(node: onnx_ir.Node, known: KnownSizes, work: Workbench) -> None:
    x, shape = node.inputs[0], node.inputs[1]
    content = known.content(shape)
    if x is None or shape is None or is_constant(shape) or content is None or content.scalar:
        return
    work.coverage.matched += 1
    literal = bool(attribute_int(node, "allowzero", 0)) and 0 in content.items
    target = _target(content, known.shape(x) or (), not literal)
    if target is None:
        work.decline(node, "more than one size of the new shape is not known")
        return
    build = work.builder(node)
    kept = {"allowzero": 1} if literal else {}
    new = build.op("Reshape", x, build.ints(*target), attributes=kept)
    outputs, weights = ((node.outputs[0], new),), tuple(build.initializers)
    work.propose(Proposal(_sources(node, known), outputs, tuple(build.nodes), weights))


def _target(content: Content, before: tuple[Size | None, ...], copies: bool) -> list[int] | None:
    """Write sizes as numbers: 0 copies the size of the same place, -1 stands for one that is left."""
    target: list[int] = []
    for axis, size in enumerate(content.items):
        if isinstance(size, int):
            target.append(size)
        elif copies and size is not None and axis < len(before) and before[axis] == size:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None
