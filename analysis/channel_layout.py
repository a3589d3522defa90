"""Follow channels through operators that keep them apart.

A :class:`Layout` says for every axis of a value what an index adds to the number of the channel: a split into heads
adds ``head * size`` along one axis and ``0 … size - 1`` along another, an axis that says nothing about the channel adds
nothing. :func:`forward` is for operators f with f(x / s) = f(x) / s for a positive s per channel, whatever the axis.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import (
    attribute_int,
    attribute_ints,
    attribute_string,
    constant,
    constant_ints,
    dimensions,
    is_constant,
    is_op,
)  # fmt: skip
from whet.passes.attention.call import read_attention

__all__ = ["Layout", "forward", "is_linear", "regrouped"]

Labels = NDArray[np.int64]
Sizes = tuple[int | str | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Per axis what each index adds to the channel's number; None where it adds nothing."""

    axes: tuple[Labels | None, ...]

    @staticmethod
    def along(axis: int, rank: int, channels: int) -> "Layout":
        """Return the layout of ``channels`` along one axis."""
        own = np.arange(channels, dtype=np.int64)
        return Layout(tuple(own if k == axis % rank else None for k in range(rank)))

    def labels(self) -> Labels:
        """Return every channel that occurs."""
        total = np.zeros(1, np.int64)
        for part in self.axes:
            if part is not None:
                total = np.unique(np.add.outer(total, part))
        return total

    def single(self, axis: int) -> Labels:
        """Return the channels along ``axis``, or decline where another axis tells them apart too."""
        labels = self.axes[axis]
        if labels is None or any(p is not None for k, p in enumerate(self.axes) if k != axis):
            raise Mismatch(f"the channels do not lie along axis {axis} alone")
        return labels

    def spread(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one number per channel as an array that broadcasts against the value."""
        index = np.zeros((1,) * len(self.axes), np.int64)
        for axis, part in enumerate(self.axes):
            if part is not None:
                index = index + part.reshape([-1 if k == axis else 1 for k in range(index.ndim)])
        return numbers[index]

    def same(self, other: "Layout") -> bool:
        """Tell whether both put every channel at the same place."""
        return len(self.axes) == len(other.axes) and all(
            (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
            for a, b in zip(self.axes, other.axes, strict=True)
        )

    def free(self, *axes: int) -> None:
        """Decline where one of ``axes`` tells channels apart."""
        for axis in axes:
            if self.axes[axis % len(self.axes)] is not None:
                raise Mismatch(f"axis {axis} tells channels apart")


Known = Mapping[int, Layout]
"""Operand number -> layout, for the operands whose channels are followed."""


def forward(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """Return the layouts of the outputs, given those of some operands.

    Raises Mismatch where f(x / s) is not f(x) / s.
    """
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        raise Mismatch(f"scales do not pass through {node.op_type} '{node.name}'")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]) and node.op_type != "Split":
        raise Mismatch(f"{node.op_type} '{node.name}' has a further output")
    try:
        return rule(node, known)
    except Mismatch as error:
        error.add_note(f"at {node.op_type} '{node.name}'")
        raise


def _only(node: onnx_ir.Node, known: Known, operand: int = 0) -> Layout:
    if set(known) != {operand}:
        raise Mismatch(f"{node.op_type} '{node.name}' reads the channels at another operand too")
    return known[operand]


def _out(node: onnx_ir.Node) -> Sizes:
    sizes = dimensions(node.outputs[0])
    if sizes is None:
        raise Mismatch(f"the shape of '{node.outputs[0].name}' is not known")
    return sizes


def _in(node: onnx_ir.Node, operand: int = 0) -> Sizes:
    value = node.inputs[operand]
    sizes = dimensions(value)
    if value is None or sizes is None:
        raise Mismatch(f"the shape of '{value and value.name}' is not known")
    return sizes


def _stretched(layout: Layout, sizes: Sizes) -> Layout:
    """Return the layout after broadcasting to ``sizes``."""
    axes = (None,) * (len(sizes) - len(layout.axes)) + layout.axes
    found: list[Labels | None] = []
    for part, size in zip(axes, sizes, strict=True):
        if part is None or part.size == size:
            found.append(part)
        elif part.size == 1 and isinstance(size, int):
            found.append(np.repeat(part, size))
        else:
            raise Mismatch(f"{part.size} channels become {size}")
    return Layout(tuple(found))


def _same(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    return [_only(node, known)]


def _product(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """Degree one in one operand: the other must not be scaled too."""
    if len(known) != 1 or (node.op_type == "Div" and 0 not in known):
        raise Mismatch(f"{node.op_type} '{node.name}' is not linear in what is scaled")
    return [_stretched(next(iter(known.values())), _out(node))]


def _sum(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """All operands are scaled alike; constants can be."""
    sizes = _out(node)
    layouts = [_stretched(layout, sizes) for layout in known.values()]
    for k, value in enumerate(node.inputs):
        if k not in known and not is_constant(value):
            raise Mismatch(
                f"{node.op_type} '{node.name}' adds '{value and value.name}', which is not scaled"
            )
    if not all(layout.same(layouts[0]) for layout in layouts):
        raise Mismatch(f"{node.op_type} '{node.name}' adds channels of different numbers")
    return [layouts[0]]


def _transpose(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    order = attribute_ints(node, "perm") or tuple(reversed(range(len(layout.axes))))
    return [Layout(tuple(layout.axes[k] for k in order))]


def _pool(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    layout.free(*range(2, len(layout.axes)))
    return [layout]


def _moved(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """Return the layout of Resize and Pad, which must leave the channels' axes alone."""
    layout = _only(node, known)
    for axis, (old, new) in enumerate(zip(_in(node), _out(node), strict=True)):
        if layout.axes[axis] is not None and old != new:
            raise Mismatch(f"{node.op_type} '{node.name}' changes the number of channels")
    if node.op_type == "Resize":
        crops = attribute_string(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    else:
        filling = node.inputs[2] if len(node.inputs) > 2 else None
        array = constant(filling)
        crops = filling is not None and (array is None or bool(np.any(array)))
    if crops:
        raise Mismatch(f"{node.op_type} '{node.name}' fills with a number of its own")
    return [layout]


def _expand(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    return [_stretched(_only(node, known), _out(node))]


def _reduce(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    rank = len(layout.axes)
    given = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else attribute_ints(node, "axes")
    if given is None:
        raise Mismatch(f"the axes of {node.op_type} '{node.name}' are not known")
    axes = {axis % rank for axis in given}
    layout.free(*axes)
    if attribute_int(node, "keepdims", 1):
        return [layout]
    return [Layout(tuple(part for k, part in enumerate(layout.axes) if k not in axes))]


def _slice(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    given = [constant_ints(v) for v in node.inputs[1:]]
    if any(numbers is None for numbers in given):
        raise Mismatch(f"where {node.op_type} '{node.name}' cuts is computed")
    starts, ends, *rest = [numbers for numbers in given if numbers is not None]
    axes = rest[0] if rest else tuple(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else (1,) * len(starts)
    found = list(layout.axes)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        labels = found[axis]
        if labels is not None:
            stop = None if step < 0 and end < -labels.size else end
            found[axis] = labels[start:stop:step]
    return [Layout(tuple(found))]


def _split(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    axis = attribute_int(node, "axis", 0)
    labels = layout.axes[axis]
    if labels is None:
        return [layout] * len(node.outputs)
    count = len(node.outputs)
    sizes = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None:
        whole = -(-labels.size // count)
        sizes = (*[whole] * (count - 1), labels.size - whole * (count - 1))
    parts = np.split(labels, np.cumsum(sizes)[:-1])
    place = axis % len(layout.axes)
    return [
        Layout(tuple(part if k == place else old for k, old in enumerate(layout.axes)))
        for part in parts
    ]


def _gather(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    layout = _only(node, known)
    axis = attribute_int(node, "axis", 0) % len(layout.axes)
    sizes = _in(node, 1)
    labels, index = layout.axes[axis], constant(node.inputs[1])
    before, after = layout.axes[:axis], layout.axes[axis + 1 :]
    if labels is None:
        return [Layout((*before, *(None,) * len(sizes), *after))]
    if index is None or index.ndim > 1:
        raise Mismatch(f"which channels {node.op_type} '{node.name}' takes is computed")
    if index.ndim == 1:
        return [Layout((*before, labels[index.astype(np.intp)], *after))]
    others = [*before, *after]
    place = next((k for k, part in enumerate(others) if part is not None), None)
    if place is None:
        raise Mismatch(f"{node.op_type} '{node.name}' takes a single channel")
    others[place] = np.asarray(others[place]) + labels[int(index)]
    return [Layout(tuple(others))]


def _attention(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """Return the layout of ``P v``: every query head sees the value head that it shares."""
    layout = _only(node, known, 2)
    call = read_attention(node)
    if call.past_value is not None:
        raise Mismatch("past values are not scaled")
    layout.free(2)
    heads, key_heads = _in(node)[1], _in(node, 2)[1]
    labels = layout.axes[1]
    if labels is not None:
        if not isinstance(heads, int) or not isinstance(key_heads, int):
            raise Mismatch("the number of heads is not known")
        labels = np.repeat(labels, heads // key_heads)
    return [Layout((layout.axes[0], labels, None, layout.axes[3]))]


def _matmul(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    """Return the layout of ``p v`` with a computed p."""
    layout = _only(node, known, 1)
    rank = len(_out(node))
    if len(layout.axes) < 2:
        raise Mismatch("the right operand is a vector")
    layout.free(-2)
    rest = (*layout.axes[:-2], None, layout.axes[-1])
    return [_stretched(Layout((None,) * (rank - len(rest)) + rest), _out(node))]


def _reshape(node: onnx_ir.Node, known: Known) -> list[Layout | None]:
    return [regrouped(_only(node, known), _in(node), _out(node))]


def regrouped(layout: Layout, old: Sizes, new: Sizes) -> Layout:
    """Match equal axes from both ends, then equal products of sizes; what is left over must be free."""
    blocks: list[tuple[range, range]] = []
    i, j = 0, 0
    while i < len(old) and j < len(new) and old[i] == new[j] and old[i] is not None:
        blocks.append((range(i, i + 1), range(j, j + 1)))
        i, j = i + 1, j + 1
    p, q = len(old), len(new)
    while (found := _last_block(old[i:p], new[j:q])) is not None:
        a, b = i + found[0], j + found[1]
        blocks.append((range(a, p), range(b, q)))
        p, q = a, b
    rest = (*range(i, p),)
    _only_ones_or_free(layout, old, rest)
    axes: list[Labels | None] = [None] * len(new)
    for before, after in blocks:
        for axis, part in zip(after, _block(layout, old, new, before, after), strict=True):
            axes[axis] = part
    offset = sum(int(part[0]) for k in rest if (part := layout.axes[k]) is not None)
    if offset:
        place = next(k for k, part in enumerate(axes) if part is not None)
        axes[place] = np.asarray(axes[place]) + offset
    return Layout(tuple(axes))


def _last_block(old: Sizes, new: Sizes) -> tuple[int, int] | None:
    """Return where the shortest ends of equal size start, or None where sizes are not known."""
    a, b = len(old) - 1, len(new) - 1
    while a >= 0 and b >= 0:
        if old[a:] == new[b:] and old[a] is not None:
            return a, b
        sizes = _products(old[a:], new[b:])
        if sizes is None:
            return None
        if sizes[0] == sizes[1]:
            return a, b
        a, b = (a - 1, b) if sizes[0] < sizes[1] else (a, b - 1)
    return None


def _only_ones_or_free(layout: Layout, sizes: Sizes, axes: Sequence[int]) -> None:
    for axis in axes:
        if layout.axes[axis] is not None and sizes[axis] != 1:
            raise Mismatch("a reshape mixes channels with axes of unknown size")


def _products(old: Sizes, new: Sizes) -> tuple[int, int] | None:
    """Return both numbers of elements, or None where one is not known."""
    ints = [[d for d in part if isinstance(d, int)] for part in (old, new)]
    if len(ints[0]) < len(old) or len(ints[1]) < len(new):
        return None
    return math.prod(ints[0]), math.prod(ints[1])


def _block(
    layout: Layout, old: Sizes, new: Sizes, before: range, after: range
) -> list[Labels | None]:
    """Return the labels of a block of axes that is regrouped into another of as many elements."""
    parts = [layout.axes[k] for k in before]
    if all(part is None for part in parts):
        return [None] * len(after)
    if len(before) == len(after) == 1:
        return [parts[0]]
    shape = [int(old[k] or 0) for k in before]
    whole = np.zeros(shape, np.int64)
    for k, part in enumerate(parts):
        if part is not None:
            whole = whole + part.reshape([-1 if i == k else 1 for i in range(len(shape))])
    target = [int(new[k] or 0) for k in after]
    return _separated(whole.reshape(target))


def _separated(whole: Labels) -> list[Labels | None]:
    """Write an array as a sum of one vector per axis, or decline."""
    first = int(whole.reshape(-1)[0])
    found: list[Labels | None] = []
    total = np.full(whole.shape, first)
    for axis in range(whole.ndim):
        line = np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1)[:, 0] - first
        found.append(line if line.any() else None)
        total = total + line.reshape([-1 if k == axis else 1 for k in range(whole.ndim)])
    if not np.array_equal(total, whole):
        raise Mismatch("a reshape mixes channels in a way that no axis tells apart")
    place = next((k for k, part in enumerate(found) if part is not None), 0)
    own = found[place]
    found[place] = (np.zeros(whole.shape[place], np.int64) if own is None else own) + first
    return found


_RULES: Mapping[str, Callable[[onnx_ir.Node, Known], list[Layout | None]]] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Identity", "Dropout"), _same),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("Pad", "Resize"), _moved),
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Attention": _attention,
    "MatMul": _matmul,
}


def is_linear(node: onnx_ir.Node) -> bool:
    """Tell whether the node multiplies by a constant matrix or filter on its right."""
    return is_op(node, "MatMul", "Gemm", "Conv", "ConvTranspose") and is_constant(node.inputs[1])
