"""What operators do to shapes, where the names of symbols say more than ONNX's inference does."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir

from whet.analysis.content_rules import Known, Shape
from whet.analysis.size_arithmetic import Size, add, divide, product, subtract
from whet.ir.values import attribute_int, attribute_ints

__all__ = ["SHAPE_RULES", "broadcast"]

_ENDLESS = 2**31 - 1


def broadcast(one: Shape, other: Shape) -> Shape:
    """Return the shape of an elementwise result."""
    rank = max(len(one), len(other))
    first = (1,) * (rank - len(one)) + one
    second = (1,) * (rank - len(other)) + other
    return tuple(_wider(a, b) for a, b in zip(first, second, strict=True))


def _wider(one: Size | None, other: Size | None) -> Size | None:
    if one == 1 or one == other:
        return other
    if other == 1:
        return one
    numbers = [size for size in (one, other) if isinstance(size, int)]
    return numbers[0] if numbers else None


def _of_elementwise(node: onnx_ir.Node, known: Known) -> Shape | None:
    result: Shape = ()
    for value in node.inputs:
        shape = known.shape(value)
        if shape is None:
            return None
        result = broadcast(result, shape)
    return result


def _of_matmul(node: onnx_ir.Node, known: Known) -> Shape | None:
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    return (*broadcast(left[:-2], right[:-2]), left[-2], right[-1])


def _of_concat(node: onnx_ir.Node, known: Known) -> Shape | None:
    shapes = [shape for shape in map(known.shape, node.inputs) if shape is not None]
    axis = attribute_int(node, "axis", 1)
    if len(shapes) < len(node.inputs) or not -len(shapes[0]) <= axis < len(shapes[0]):
        return None
    sizes = list(shapes[0])
    sizes[axis] = _sum([shape[axis] for shape in shapes])
    return tuple(sizes)


def _sum(sizes: Sequence[Size | None]) -> Size | None:
    total: Size = 0
    for size in sizes:
        if size is None:
            return None
        total = add(total, size)
    return total


def _of_slice(node: onnx_ir.Node, known: Known) -> Shape | None:
    """Keep the sizes of the axes that are taken whole, or not mentioned."""
    before = known.shape(node.inputs[0])
    given = [known.content(value) for value in node.inputs[1:]]
    lists = [None if content is None else content.numbers for content in given]
    starts, ends, axes, steps = (*lists, *[None] * 4)[:4]
    if axes is None and len(lists) < 3:
        axes = None if starts is None else tuple(range(len(starts)))
    if before is None or axes is None or len(lists) < 2:
        return None
    sizes = list(before)
    for k, axis in enumerate(axes):
        taken = None if starts is None or ends is None else (starts[k], ends[k])
        step = 1 if len(lists) < 4 else None if steps is None else steps[k]
        if taken is None or taken[0] != 0 or step != 1 or taken[1] < _ENDLESS:
            sizes[axis] = None
    return tuple(sizes)


def _of_reshape(node: onnx_ir.Node, known: Known) -> Shape | None:
    target, before = known.content(node.inputs[1]), known.shape(node.inputs[0])
    if (
        target is None
        or target.scalar
        or (0 in target.items and attribute_int(node, "allowzero", 0))
    ):
        return None
    sizes: list[Size | None] = []
    for axis, size in enumerate(target.items):
        copied = before[axis] if before is not None and axis < len(before) else None
        sizes.append(copied if size == 0 else size)
    if sizes.count(-1) != 1:
        return tuple(None if size == -1 else size for size in sizes)
    hole = sizes.index(-1)
    others = [size for axis, size in enumerate(sizes) if axis != hole]
    sizes[hole] = None if before is None else _ratio(before, others)
    return tuple(sizes)


def _ratio(before: Sequence[Size | None], others: Sequence[Size | None]) -> Size | None:
    whole = [size for size in before if size is not None]
    parts = [size for size in others if size is not None]
    if len(whole) < len(before) or len(parts) < len(others):
        return None
    return divide(product(whole), product(parts))


def _of_expand(node: onnx_ir.Node, known: Known) -> Shape | None:
    target, before = known.content(node.inputs[1]), known.shape(node.inputs[0])
    if target is None or target.scalar or before is None:
        return None
    return broadcast(before, target.items)


def _of_range(node: onnx_ir.Node, known: Known) -> Shape | None:
    """Count from one size to another that is certainly not smaller, in steps of 1."""
    contents = [known.content(value) for value in node.inputs]
    items = [None if c is None or len(c.items) != 1 else c.items[0] for c in contents]
    start, limit, step = items
    if start is None or limit is None or step != 1:
        return None
    count = subtract(limit, start)
    factors = [count] if isinstance(count, int) else [factor for _, factor in count.terms]
    return (count,) if min(factors) >= 0 else None


def _of_tile(node: onnx_ir.Node, known: Known) -> Shape | None:
    counts, before = known.content(node.inputs[1]), known.shape(node.inputs[0])
    if counts is None or before is None or len(counts.items) != len(before):
        return None
    pairs = zip(before, counts.items, strict=True)
    return tuple(None if s is None or n is None else product((s, n)) for s, n in pairs)


def _same(node: onnx_ir.Node, known: Known) -> Shape | None:
    return known.shape(node.inputs[0])


def _of_transpose(node: onnx_ir.Node, known: Known) -> Shape | None:
    before = known.shape(node.inputs[0])
    if before is None:
        return None
    order = attribute_ints(node, "perm", tuple(reversed(range(len(before))))) or ()
    return tuple(before[axis] for axis in order)


def _axes(node: onnx_ir.Node, known: Known, rank: int) -> tuple[int, ...] | None:
    """Return the axes, counted from zero, that an attribute or the second input gives; None if neither does."""
    found = attribute_ints(node, "axes")
    if found is None and len(node.inputs) > 1:
        content = known.content(node.inputs[1])
        found = None if content is None else content.numbers
    return None if found is None else tuple(axis % rank if rank else 0 for axis in found)


def _of_reduction(node: onnx_ir.Node, known: Known) -> Shape | None:
    before = known.shape(node.inputs[0])
    axes = None if before is None else _axes(node, known, len(before))
    if before is None or not axes:
        return None
    if attribute_int(node, "keepdims", 1):
        return tuple(1 if axis in axes else size for axis, size in enumerate(before))
    return tuple(size for axis, size in enumerate(before) if axis not in axes)


def _of_squeeze(node: onnx_ir.Node, known: Known) -> Shape | None:
    before = known.shape(node.inputs[0])
    axes = None if before is None else _axes(node, known, len(before))
    if before is None or axes is None:
        return None
    return tuple(size for axis, size in enumerate(before) if axis not in axes)


def _of_unsqueeze(node: onnx_ir.Node, known: Known) -> Shape | None:
    before = known.shape(node.inputs[0])
    count = len(_axes(node, known, 1) or ())
    if before is None or not count:
        return None
    axes = _axes(node, known, len(before) + count) or ()
    sizes = iter(before)
    return tuple(1 if axis in axes else next(sizes) for axis in range(len(before) + count))


def _of_gather(node: onnx_ir.Node, known: Known) -> Shape | None:
    data, index = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if not data or index is None:
        return None
    axis = attribute_int(node, "axis", 0) % len(data)
    return (*data[:axis], *index, *data[axis + 1 :])


_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
_UNARY = (
    *(
        "Identity",
        "Cast",
        "Dropout",
        "Not",
        "Neg",
        "Abs",
        "Sqrt",
        "Reciprocal",
        "Exp",
        "Log",
        "Erf",
    ),
    *("Relu", "LeakyRelu", "Gelu", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Clip", "Elu"),
    *("Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "InstanceNormalization"),
)
_ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Where", "Max", "Min"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
SHAPE_RULES: Mapping[str, Callable[[onnx_ir.Node, Known], Shape | None]] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_ELEMENTWISE, _of_elementwise),
    **dict.fromkeys(_REDUCTIONS, _of_reduction),
    "Concat": _of_concat,
    "Expand": _of_expand,
    "Gather": _of_gather,
    "MatMul": _of_matmul,
    "Range": _of_range,
    "Reshape": _of_reshape,
    "Slice": _of_slice,
    "Squeeze": _of_squeeze,
    "Tile": _of_tile,
    "Transpose": _of_transpose,
    "Unsqueeze": _of_unsqueeze,
}
