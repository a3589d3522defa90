"""What integer operators do to the elements of a scalar or vector."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import onnx_ir

from whet.analysis.size_arithmetic import (
    Expression,
    Size,
    add,
    divide,
    multiply,
    product,
    subtract,
)
from whet.ir.values import attribute_int, attribute_ints, dimensions

__all__ = ["CONTENT_RULES", "INTEGERS", "LONGEST", "Content", "Known", "Shape"]

LONGEST = 64
"""Integer vectors of up to this many elements are followed."""
INTEGERS = frozenset({onnx_ir.DataType.INT64, onnx_ir.DataType.INT32, onnx_ir.DataType.BOOL})

Shape = tuple[Size | None, ...]


@dataclasses.dataclass(frozen=True)
class Content:
    """The elements of an integer scalar or vector; None where an element is not known."""

    items: tuple[Size | None, ...]
    scalar: bool = False

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """Return the elements if all are plain numbers."""
        found = tuple(item for item in self.items if isinstance(item, int))
        return found if len(found) == len(self.items) else None


class Known(Protocol):
    """What has been found out about the values before a node."""

    def content(self, value: onnx_ir.Value | None) -> Content | None:
        """Return what is known about the elements of an integer scalar or vector."""
        ...

    def shape(self, value: onnx_ir.Value | None) -> Shape | None:
        """Return the shape: numbers, expressions over symbols, None for what is not known."""
        ...


Rule = Callable[[onnx_ir.Node, Known], Content | None]


def _of_shape(node: onnx_ir.Node, known: Known) -> Content | None:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return None
    start = attribute_int(node, "start", 0)
    return Content(shape[start : attribute_int(node, "end", len(shape))])


def _of_size(node: onnx_ir.Node, known: Known) -> Content | None:
    shape = known.shape(node.inputs[0])
    sizes = [size for size in shape or () if size is not None]
    if shape is None or len(sizes) < len(shape):
        return None
    return Content((product(sizes),), scalar=True)


def _of_gather(node: onnx_ir.Node, known: Known) -> Content | None:
    data, index = known.content(node.inputs[0]), known.content(node.inputs[1])
    places = None if index is None else index.numbers
    if (
        data is None
        or index is None
        or places is None
        or attribute_int(node, "axis", 0) not in (0, -1)
    ):
        return None
    count = len(data.items)
    if data.scalar or not all(-count <= place < count for place in places):
        return None
    return Content(tuple(data.items[place] for place in places), index.scalar)


def _of_slice(node: onnx_ir.Node, known: Known) -> Content | None:
    data = known.content(node.inputs[0])
    if data is None or data.scalar:
        return None
    limits: list[int] = []
    for at, (name, default) in enumerate(
        (("starts", None), ("ends", None), ("axes", 0), ("steps", 1)), 1
    ):
        found = attribute_ints(node, name)
        if found is None and at < len(node.inputs) and node.inputs[at] is not None:
            content = known.content(node.inputs[at])
            found = None if content is None else content.numbers
        elif found is None and default is not None:
            found = (default,)
        if found is None or len(found) != 1:
            return None
        limits.append(found[0])
    start, end, axis, step = limits
    return Content(data.items[start:end:step]) if axis in (0, -1) and step > 0 else None


def _of_concat(node: onnx_ir.Node, known: Known) -> Content | None:
    items: list[Size | None] = []
    for value in node.inputs:
        content = known.content(value)
        if content is None:
            sizes = dimensions(value)
            if (
                sizes is None
                or len(sizes) != 1
                or not isinstance(sizes[0], int)
                or sizes[0] > LONGEST
            ):
                return None
            content = Content((None,) * sizes[0])
        items.extend(content.items)
    return Content(tuple(items))


def _of_squeeze(node: onnx_ir.Node, known: Known) -> Content | None:
    data = known.content(node.inputs[0])
    return Content(data.items, scalar=True) if data is not None and len(data.items) == 1 else None


def _of_unsqueeze(node: onnx_ir.Node, known: Known) -> Content | None:
    data = known.content(node.inputs[0])
    if data is None or not data.scalar:
        return None
    axes = attribute_ints(node, "axes")
    if axes is None and len(node.inputs) > 1:
        content = known.content(node.inputs[1])
        axes = None if content is None else content.numbers
    return Content(data.items) if axes is not None and len(axes) == 1 else None


def _of_reshape(node: onnx_ir.Node, known: Known) -> Content | None:
    data, target = known.content(node.inputs[0]), known.content(node.inputs[1])
    if data is None or target is None:
        return None
    if not target.items:
        return Content(data.items, scalar=True)
    return Content(data.items) if target.numbers in ((-1,), (len(data.items),)) else None


def _unchanged(node: onnx_ir.Node, known: Known) -> Content | None:
    return known.content(node.inputs[0])


def _of_cast(node: onnx_ir.Node, known: Known) -> Content | None:
    target = onnx_ir.DataType(attribute_int(node, "to", 0))
    source = None if node.inputs[0] is None else node.inputs[0].dtype
    same = target in INTEGERS - {onnx_ir.DataType.BOOL} and source in INTEGERS
    return known.content(node.inputs[0]) if same else None


def _elementwise(compute: Callable[[Size, Size], Size | None]) -> Rule:
    def rule(node: onnx_ir.Node, known: Known) -> Content | None:
        left, right = known.content(node.inputs[0]), known.content(node.inputs[1])
        if left is None or right is None:
            return None
        length = max(len(left.items), len(right.items))
        if {len(left.items), len(right.items)} - {1, length}:
            return None
        ones, others = _stretched(left, length), _stretched(right, length)
        pairs = zip(ones, others, strict=True)
        items = tuple(None if a is None or b is None else compute(a, b) for a, b in pairs)
        return Content(items, left.scalar and right.scalar)

    return rule


def _stretched(content: Content, length: int) -> tuple[Size | None, ...]:
    return content.items if len(content.items) == length else content.items * length


def _quotient(left: Size, right: Size) -> Size | None:
    """Return the quotient where rounding down and rounding to zero agree."""
    negative = [isinstance(size, int) and size < 0 for size in (left, right)]
    if any(negative) or _may_be_negative(left) or _may_be_negative(right):
        return None
    return divide(left, right)


def _may_be_negative(size: Size) -> bool:
    return isinstance(size, Expression) and any(factor < 0 for _, factor in size.terms)


def _equal(left: Size, right: Size) -> Size | None:
    if left == right:
        return 1
    if isinstance(left, int) and isinstance(right, int):
        return 0
    number, other = (left, right) if isinstance(left, int) else (right, left)
    never = isinstance(number, int) and number < 0 and not _may_be_negative(other)
    return 0 if never else None


def _of_where(node: onnx_ir.Node, known: Known) -> Content | None:
    parts = [known.content(value) for value in node.inputs]
    found = [part for part in parts if part is not None]
    if len(found) < 3:
        return None
    length = max(len(part.items) for part in found)
    if any(len(part.items) not in (1, length) for part in found):
        return None
    columns = zip(*(_stretched(part, length) for part in found), strict=True)
    items = tuple(
        None if test is None or not isinstance(test, int) else (one if test else other)
        for test, one, other in columns
    )
    return Content(items, all(part.scalar for part in found))


def _of_constant_of_shape(node: onnx_ir.Node, known: Known) -> Content | None:
    content = known.content(node.inputs[0])
    count = None if content is None else content.numbers
    value = node.attributes.get("value")
    if count is None or len(count) != 1 or count[0] > LONGEST or value is None:
        return None
    tensor = value.as_tensor()
    return (
        Content((int(tensor.numpy().reshape(-1)[0]),) * count[0])
        if tensor.dtype in INTEGERS
        else None
    )


def _of_product(node: onnx_ir.Node, known: Known) -> Content | None:
    data = known.content(node.inputs[0])
    axes = attribute_ints(node, "axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        content = known.content(node.inputs[1])
        axes = None if content is None else content.numbers
    if data is None or data.scalar or axes not in ((), (0,), (-1,)):
        return None
    if not axes and attribute_int(node, "noop_with_empty_axes", 0):
        return data
    sizes = [size for size in data.items if size is not None]
    if len(sizes) < len(data.items):
        return None
    return Content((product(sizes),), scalar=not attribute_int(node, "keepdims", 1))


CONTENT_RULES: Mapping[str, Rule] = {
    "Add": _elementwise(add),
    "Cast": _of_cast,
    "Concat": _of_concat,
    "ConstantOfShape": _of_constant_of_shape,
    "Div": _elementwise(_quotient),
    "Equal": _elementwise(_equal),
    "Gather": _of_gather,
    "Identity": _unchanged,
    "Mul": _elementwise(multiply),
    "ReduceProd": _of_product,
    "Reshape": _of_reshape,
    "Shape": _of_shape,
    "Size": _of_size,
    "Slice": _of_slice,
    "Squeeze": _of_squeeze,
    "Sub": _elementwise(subtract),
    "Unsqueeze": _of_unsqueeze,
    "Where": _of_where,
}
