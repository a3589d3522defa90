"""Recognize the rotation of pairs of features, however it is written."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir

from whet.ir.values import constant, is_op
from whet.passes.attention.last_axis import Pair, Part, pair_of, parts_of

__all__ = ["Rotation", "quarter_turn", "read_rotation"]


@dataclasses.dataclass(frozen=True)
class Rotation:
    """``(x1, x2)`` turned into ``(x1 cos - x2 sin, x2 cos + x1 sin)``, pair by pair.

    The pairs are an element of the first half with its like in the second or, interleaved, neighbours.
    """

    levels: tuple[Part, ...]
    """What is turned, as parts of one tensor after the other, the nearest first."""
    cos: onnx_ir.Value
    sin: onnx_ir.Value
    interleaved: bool
    doubled: bool
    """The cosines are as many as the features, written twice; otherwise as many as the pairs."""
    nodes: tuple[onnx_ir.Node, ...]


def read_rotation(root: onnx_ir.Node) -> Rotation | None:
    """Return the rotation whose result the node gives."""
    if is_op(root, "Add"):
        return next(_with_turned(root), None)
    if is_op(root, "Concat", "Reshape", "Flatten"):
        return next(_pair_by_pair(root), None)
    return None


def quarter_turn(value: onnx_ir.Value | None) -> tuple[Pair, tuple[Part, ...]] | None:
    """Read ``(-x2, x1)``: how it is put together, and x on every level that both are parts of."""
    pair = pair_of(value)
    if pair is None:
        return None
    for negated, nodes in _negations(pair.first):
        levels = _common(parts_of(pair.second), parts_of(negated), pair.interleaved, nodes)
        if levels:
            return dataclasses.replace(pair, nodes=(*pair.nodes, *nodes)), levels
    return None


def _with_turned(root: onnx_ir.Node) -> Iterator[Rotation]:
    """Read ``x cos + (-x2, x1) sin``."""
    for plain, turned in _orders(root):
        for quarter, sin in _factors(turned):
            found = quarter_turn(quarter)
            if found is None:
                continue
            pair, levels = found
            for x, cos in _factors(plain):
                whole = _levels_from(x, levels)
                if whole:
                    nodes = (root, *_producers(plain, turned), *pair.nodes, *_cutters(levels))
                    nodes = tuple(dict.fromkeys((*nodes, *_cutters(whole))))
                    yield Rotation(whole, cos, sin, pair.interleaved, True, nodes)


def _levels_from(x: onnx_ir.Value, levels: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the levels of x if the pairs are taken from x itself."""
    known = {(part.source, part.indices) for part in levels}
    own = parts_of(x)
    return tuple(own) if any((part.source, part.indices) in known for part in own) else ()


def _pair_by_pair(root: onnx_ir.Node) -> Iterator[Rotation]:
    """Read ``(x1 cos - x2 sin, x2 cos + x1 sin)``."""
    pair = pair_of(root.outputs[0])
    if pair is None or pair.nodes[0] is not root:
        return
    real, imaginary = pair.first.producer(), pair.second.producer()
    if real is None or imaginary is None or not is_op(real, "Sub") or not is_op(imaginary, "Add"):
        return
    first, second = real.inputs
    for x1, cos in _factors(first):
        for x2, sin in _factors(second):
            for one, other in _orders(imaginary):
                if _multiplies(one, x2, cos) and _multiplies(other, x1, sin):
                    levels = _common(parts_of(x1), parts_of(x2), pair.interleaved, ())
                    makers = _producers(first, second, one, other)
                    nodes = (*pair.nodes, real, imaginary, *makers, *_cutters(levels))
                    if levels:
                        yield Rotation(
                            levels, cos, sin, pair.interleaved, False, tuple(dict.fromkeys(nodes))
                        )


def _common(
    first: list[Part], second: list[Part], interleaved: bool, nodes: tuple[onnx_ir.Node, ...]
) -> tuple[Part, ...]:
    """Return the tensors that ``first`` and ``second`` are the two elements of each pair of, with their place."""
    found: list[Part] = []
    for one in first:
        for other in second:
            if one.source is not other.source:
                continue
            whole = _joined(one.indices, other.indices, interleaved)
            if whole is not None:
                cutters = tuple(dict.fromkeys((*nodes, *one.nodes, *other.nodes)))
                found.append(Part(one.source, whole, cutters))
    return tuple(found)


def _joined(first: range, second: range, interleaved: bool) -> range | None:
    """Return the run of indices that both together are."""
    count = len(first)
    if count == 0 or len(second) != count:
        return None
    whole = range(first.start, first.start + 2 * count)
    if interleaved:
        return whole if (first, second) == (whole[0::2], whole[1::2]) else None
    return whole if (first, second) == (whole[:count], whole[count:]) else None


def _negations(
    value: onnx_ir.Value,
) -> Iterator[tuple[onnx_ir.Value, tuple[onnx_ir.Node, ...]]]:
    """Yield x with ``value = -x``, and the nodes between."""
    node = value.producer()
    if node is None:
        return
    if is_op(node, "Neg") and node.inputs[0] is not None:
        yield node.inputs[0], (node,)
    if is_op(node, "Mul"):
        for x, factor in _factors(value):
            if _is_scalar(factor, -1.0):
                yield x, (node,)
    if is_op(node, "Sub") and node.inputs[1] is not None and _is_scalar(node.inputs[0], 0.0):
        yield node.inputs[1], (node,)


def _is_scalar(value: onnx_ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and np.float64(array.reshape(-1)[0]) == number


def _orders(
    node: onnx_ir.Node,
) -> Iterator[tuple[onnx_ir.Value, onnx_ir.Value]]:
    first, second = node.inputs
    if first is not None and second is not None:
        yield first, second
        yield second, first


def _factors(value: onnx_ir.Value | None) -> Iterator[tuple[onnx_ir.Value, onnx_ir.Value]]:
    """Yield both orders of the operands if the value is a product."""
    node = None if value is None else value.producer()
    if node is not None and is_op(node, "Mul"):
        yield from _orders(node)


def _multiplies(value: onnx_ir.Value, x: onnx_ir.Value, y: onnx_ir.Value) -> bool:
    return (x, y) in _factors(value)


def _producers(*values: onnx_ir.Value | None) -> list[onnx_ir.Node]:
    makers = [v.producer() for v in values if v is not None]
    return [node for node in makers if node is not None]


def _cutters(levels: tuple[Part, ...]) -> list[onnx_ir.Node]:
    return [node for part in levels for node in part.nodes]
