"""Follow the last axis of a tensor through slices, splits, stacks and concatenations."""

import dataclasses

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant, dimensions, is_op
from whet.passes.forms import axes_of, ranges_of

__all__ = [
    "Pair",
    "Part",
    "keeps_other_axes",
    "last_size",
    "pair_of",
    "parts_of",
    "without_new_axis",
]

_LAYOUT = ("Reshape", "Flatten")


@dataclasses.dataclass(frozen=True)
class Part:
    """A value that holds the elements ``indices`` of the last axis of ``source``, all other axes whole."""

    source: onnx_ir.Value
    indices: range
    nodes: tuple[onnx_ir.Node, ...] = ()
    """The nodes between, the last one first."""


def last_size(value: onnx_ir.Value | None) -> int | None:
    """Return the size of the last axis if it is a number."""
    sizes = dimensions(value)
    return sizes[-1] if sizes and isinstance(sizes[-1], int) else None


def parts_of(value: onnx_ir.Value) -> list[Part]:
    """Return what the value is a part of: first itself, then what it was cut from, and so on upstream."""
    size = last_size(value)
    if size is None:
        return []
    steps: list[tuple[onnx_ir.Value, slice, tuple[onnx_ir.Node, ...]]] = []
    source = value
    while (step := _cut(source)) is not None:
        steps.append(step)
        source = step[0]
    found = [Part(value, range(size))]
    for k in range(1, len(steps) + 1):
        found.append(_compose(steps[:k]))
    return found


def _compose(steps: list[tuple[onnx_ir.Value, slice, tuple[onnx_ir.Node, ...]]]) -> Part:
    source = steps[-1][0]
    indices = range(last_size(source) or 0)
    for _, taken, _ in reversed(steps):
        indices = indices[taken]
    return Part(source, indices, tuple(node for _, _, nodes in steps for node in nodes))


def _cut(value: onnx_ir.Value) -> tuple[onnx_ir.Value, slice, tuple[onnx_ir.Node, ...]] | None:
    """Return what the value was cut from, the elements taken and the nodes that cut."""
    node = value.producer()
    if node is None or not node.inputs:
        return None
    axis = _axis_taken(node, value)
    if axis is None:
        return _folded(node)
    x = node.inputs[0]
    if x is None or last_size(x) is None or axis[0] != len(dimensions(x) or ()) - 1:
        return None
    return x, axis[1], (node,)


def _axis_taken(node: onnx_ir.Node, value: onnx_ir.Value) -> tuple[int, slice] | None:
    """Return the only axis that a Slice or Split takes a part of, and the part."""
    sizes = dimensions(node.inputs[0])
    if sizes is None:
        return None
    if is_op(node, "Split"):
        axis = attribute_int(node, "axis", 0) % len(sizes)
        lengths = [(dimensions(v) or (None,) * len(sizes))[axis] for v in node.outputs]
        before = lengths[: node.outputs.index(value) + 1]
        known = [size for size in before if isinstance(size, int)]
        if len(known) < len(before):
            return None
        return axis, slice(sum(known[:-1]), sum(known))
    if not is_op(node, "Slice"):
        return None
    try:
        ranges = [r for r in ranges_of(node) if not r.is_full]
    except Mismatch:
        return None
    if len(ranges) != 1 or ranges[0].step < 1:
        return None
    taken = ranges[0]
    return taken.axis % len(sizes), slice(taken.start, taken.end, taken.step)


def _folded(node: onnx_ir.Node) -> tuple[onnx_ir.Value, slice, tuple[onnx_ir.Node, ...]] | None:
    """Read ``Reshape(x, [..., a, b])`` of which one index of axis a or b is taken."""
    index = _index_taken(node)
    if index is None:
        return None
    folded, back, at, nodes = index
    reshape = folded.producer()
    if reshape is None or not is_op(reshape, "Reshape"):
        return None
    x = reshape.inputs[0]
    wide, sizes = dimensions(folded), dimensions(x)
    if x is None or wide is None or sizes is None or wide[:-2] != sizes[:-1] or None in wide:
        return None
    a, b = wide[-2:]
    if not isinstance(a, int) or not isinstance(b, int) or a * b != sizes[-1]:
        return None
    taken = slice(at % b, None, b) if back == 1 else slice(at % a * b, (at % a + 1) * b)
    return x, taken, (*nodes, reshape)


def _index_taken(
    node: onnx_ir.Node,
) -> tuple[onnx_ir.Value, int, int, tuple[onnx_ir.Node, ...]] | None:
    """Return (x, axis from the back: 1 or 2, index, nodes) if the node takes one index of an axis away."""
    x = node.inputs[0]
    if x is None:
        return None
    if is_op(node, "Gather"):
        place = constant(node.inputs[1])
        rank = len(dimensions(x) or ())
        back = rank - attribute_int(node, "axis", 0) % rank if rank else 0
        if place is None or place.ndim or back not in (1, 2):
            return None
        return x, back, int(place), (node,)
    if not is_op(node, "Squeeze"):
        return None
    return _squeezed_index(node, x)


def _squeezed_index(
    node: onnx_ir.Node, single: onnx_ir.Value
) -> tuple[onnx_ir.Value, int, int, tuple[onnx_ir.Node, ...]] | None:
    cutter = single.producer()
    rank = len(dimensions(single) or ())
    axes = _written_axes(node)
    if cutter is None or rank == 0 or axes is None or len(axes) != 1:
        return None
    found = _axis_taken(cutter, single)
    x = cutter.inputs[0]
    back = rank - axes[0] % rank
    if found is None or x is None or found[0] != axes[0] % rank or back not in (1, 2):
        return None
    size = (dimensions(x) or ())[found[0]]
    if not isinstance(size, int) or len(range(size)[found[1]]) != 1:
        return None
    return x, back, range(size)[found[1]][0], (node, cutter)


def _written_axes(node: onnx_ir.Node) -> tuple[int, ...] | None:
    try:
        return axes_of(node)
    except Mismatch:
        return None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two values of equal shape that a value is put together from, along the last axis."""

    first: onnx_ir.Value
    second: onnx_ir.Value
    interleaved: bool
    """Elements alternate; otherwise the second follows the first."""
    nodes: tuple[onnx_ir.Node, ...]


def pair_of(value: onnx_ir.Value | None) -> Pair | None:
    """Read ``Concat(a, b)`` along the last axis, or a stack of two that is laid out flat again."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return None
    rank = len(dimensions(value) or ())
    if _joins_two(node, rank, back=1):
        first, second = node.inputs
        if first is None or second is None or last_size(first) != last_size(second):
            return None
        return Pair(first, second, False, (node,)) if last_size(first) else None
    if not is_op(node, *_LAYOUT) or node.inputs[0] is None:
        return None
    return _flattened(value, node, node.inputs[0])


def _flattened(value: onnx_ir.Value, node: onnx_ir.Node, stacked: onnx_ir.Value) -> Pair | None:
    """Read ``Reshape(Concat(Unsqueeze(a), Unsqueeze(b)))``, stacked along the last axis or the one before it."""
    concat = stacked.producer()
    rank = len(dimensions(stacked) or ())
    for back in (1, 2):
        if concat is None or not _joins_two(concat, rank, back):
            continue
        operands = [without_new_axis(v, back) for v in concat.inputs]
        first, second = operands
        if first is None or second is None or not keeps_other_axes(value, first[0], 2):
            continue
        nodes = (node, concat, first[1], second[1])
        return Pair(first[0], second[0], back == 1, nodes)
    return None


def _joins_two(node: onnx_ir.Node, rank: int, back: int) -> bool:
    if not is_op(node, "Concat") or len(node.inputs) != 2 or rank < back:
        return False
    return attribute_int(node, "axis", 1) % rank == rank - back


def without_new_axis(
    value: onnx_ir.Value | None, back: int
) -> tuple[onnx_ir.Value, onnx_ir.Node] | None:
    """Return the operand of the node that gives ``value`` its axis of size 1, ``back`` places from the end."""
    node = None if value is None else value.producer()
    if value is None or node is None or not is_op(node, "Unsqueeze", "Reshape"):
        return None
    x = node.inputs[0]
    before, after = dimensions(x), dimensions(value)
    if x is None or before is None or after is None or len(after) != len(before) + 1:
        return None
    if is_op(node, "Unsqueeze"):
        axes = _written_axes(node)
        fits = axes is not None and len(axes) == 1 and axes[0] % len(after) == len(after) - back
    else:
        at = len(after) - back
        fits = None not in before and after == (*before[:at], 1, *before[at:])
    return (x, node) if fits else None


def keeps_other_axes(value: onnx_ir.Value, part: onnx_ir.Value, times: int) -> bool:
    """Tell whether the shapes are known to be equal but for a last axis that is ``times`` as long."""
    whole, sizes = dimensions(value), dimensions(part)
    if whole is None or sizes is None or len(whole) != len(sizes) or None in sizes[:-1]:
        return False
    size = last_size(part)
    return size is not None and whole[:-1] == sizes[:-1] and whole[-1] == times * size
