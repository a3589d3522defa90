"""Operators that multiply and add: what is summed over falls on both sides together."""

from collections.abc import Mapping, Sequence

import onnx_ir

from whet.analysis.coupling.rules_elementwise import broadcast
from whet.analysis.coupling.terms import Vector
from whet.analysis.coupling.trace import Axes, Rule, Use, axes_of
from whet.ir.values import attribute_string, is_constant, is_op

__all__ = ["LINEAR", "factored"]


def factored(use: Use, vector: Vector | None, sizes: Sequence[int]) -> list[Vector | None]:
    """Return an axis as a product of axes; those that never change stay so."""
    if vector is None:
        return [None] * len(sizes)
    why = f"{use.label} splits the axis into {' x '.join(map(str, sizes))}"
    return list(use.trace.terms.factor(vector, sizes, why))


def _matmul(use: Use) -> list[Axes | None]:
    left, right = use.axes(0), use.axes(1)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return use.give_up("multiplies a vector, or a value of unknown rank")
    summed = use.join(left[-1], right[-2])
    batch = broadcast(use, (0, 1), drop=2) or ()
    if not any(is_constant(value) or _is_looked_up(value) for value in use.node.inputs):
        use.tag(summed, "head dimensions")
        use.tag(right[-1], "head dimensions")
        use.tag(batch[-1] if batch else None, "heads")
    return [(*batch, left[-2], right[-1])]


def _is_looked_up(value: onnx_ir.Value | None) -> bool:
    """Tell whether a value is weights that were chosen from a stack, those of experts, perhaps transposed."""
    node = None if value is None else value.producer()
    if is_op(node, "Transpose") and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and is_op(node, "Gather") and is_constant(node.inputs[0])


def _gemm(use: Use) -> list[Axes | None]:
    left, right = use.axes(0), use.axes(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return use.give_up("is not understood in this form")
    left = left[::-1] if use.number("transA", 0) else left
    right = right[::-1] if use.number("transB", 0) else right
    use.join(left[1], right[0])
    found = (left[0], right[1])
    if use.axes(2) is not None:
        _join_added(use, axes_of(use, 2, 2), found)
    return [found]


def _join_added(use: Use, added: Axes, axes: Axes) -> None:
    """Join what is added, broadcast, with the axes of the result."""
    sizes = use.sizes(2)
    for axis in range(1, len(sizes) + 1):
        if sizes[-axis] != 1:
            use.join(added[-axis], axes[-axis])


def _filters(use: Use) -> tuple[Axes, Axes, int] | None:
    """Return the axes of data and filters, and the number of groups."""
    data, filters = use.axes(0), use.axes(1)
    return None if data is None or filters is None else (data, filters, use.number("group", 1))


def _conv(use: Use) -> list[Axes | None]:
    read = _filters(use)
    sizes = use.sizes(1)
    if read is None or not all(isinstance(size, int) for size in sizes[:2]):
        return use.give_up("works on a value of unknown rank")
    data, filters, groups = read
    outputs, inputs = int(str(sizes[0])), int(str(sizes[1]))
    use.leave((*data[2:], *filters[2:]))
    if groups == 1:
        use.join(data[1], filters[1])
    else:
        group, inner = factored(use, data[1], (groups, inputs))
        if inputs > 1:
            use.join(inner, filters[1])
        use.join(group, factored(use, filters[0], (groups, outputs // groups))[0])
    return [_filtered(use, data, filters[0])]


def _filtered(use: Use, data: Axes, channels: Vector | None) -> Axes:
    """Return the axes of the result, with the bias joined."""
    bias = use.axes(2)
    if bias:
        use.join(bias[0], channels)
    use.tag(channels, "channels")
    use.tag(data[1], "channels")
    return (data[0], channels, *(None,) * (len(data) - 2))


def _conv_transpose(use: Use) -> list[Axes | None]:
    read = _filters(use)
    sizes = use.sizes(1)
    if read is None or not all(isinstance(size, int) for size in sizes[:2]):
        return use.give_up("works on a value of unknown rank")
    data, filters, groups = read
    use.leave((*data[2:], *filters[2:]))
    use.join(data[1], filters[0])
    channels = filters[1]
    if groups > 1:
        group, _ = factored(use, data[1], (groups, int(str(sizes[0])) // groups))
        if group is None or channels is None:
            use.fix((group, channels), "spreads them over groups")
            channels = None
        else:
            channels = use.trace.terms.outer(group, channels)
    return [_filtered(use, data, channels)]


def _einsum(use: Use) -> list[Axes | None]:
    """Join all axes of one letter."""
    equation = attribute_string(use.node, "equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    words = left.split(",")
    known = [use.axes(k) for k in range(len(use.operands))]
    if not arrow or "." in equation or len(words) != len(known):
        return use.give_up("is not understood in this form")
    letters: dict[str, Vector | None] = {}
    for word, axes in zip(words, known, strict=True):
        if axes is None or len(axes) != len(word):
            return use.give_up("is not understood in this form")
        for letter, vector in zip(word, axes, strict=True):
            letters[letter] = use.join(letters[letter], vector) if letter in letters else vector
    return [tuple(letters[letter] for letter in result)]


LINEAR: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
