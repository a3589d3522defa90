"""Read a tensor of the graph as an expression over its indices."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    attribute_int,
    attribute_ints,
    constant,
    constant_ints,
    dimensions,
    is_constant,
)
from whet.passes.attention.expression import (
    KEY,
    QUERY,
    Expression,
    Index,
    Leaf,
    Number,
    Sum,
    apply,
    axes_of,
    walk,
)
from whet.passes.forms import axes_of as written_axes
from whet.passes.forms import from_zero, known_rank, ranges_of

__all__ = ["Coordinates", "Reader", "is_plain"]

Coordinates = tuple[Expression, ...]
_ZERO = Number(0)
_WIDEST = 64
"""Sums over more positions are not multiplied out."""
_ELEMENTWISE = {
    "Abs", "Add", "And", "Cos", "Div", "Equal", "Exp", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Log", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Sigmoid", "Sin", "Sqrt",
    "Sub", "Tanh", "Where",
}  # fmt: skip


class Reader:
    """Reads tensors of one graph; what it does not understand stays an element of a tensor."""

    def __init__(self) -> None:
        """Start without memory."""
        self._known: dict[tuple[onnx_ir.Value, Coordinates], Expression] = {}
        self._fresh = itertools.count(4)
        self.nodes: dict[onnx_ir.Node, None] = {}
        """Every node that was looked through."""

    def read(self, value: onnx_ir.Value, at: Coordinates) -> Expression:
        """Return the element of ``value`` at the coordinates, one per dimension."""
        sizes = dimensions(value)
        if sizes is None or len(sizes) != len(at):
            raise Mismatch(f"the rank of '{value.name}' is not known")
        at = tuple(_ZERO if size == 1 else place for size, place in zip(sizes, at, strict=True))
        key = (value, at)
        if key not in self._known:
            self._known[key] = self._read(value, at)
        return self._known[key]

    def _read(self, value: onnx_ir.Value, at: Coordinates) -> Expression:
        if value.dtype is None:
            raise Mismatch(f"the type of '{value.name}' is not known")
        leaf = Leaf(value, at, value.dtype)
        if is_constant(value):
            return self._constant(value, leaf)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or value is not node.outputs[0]:
            return leaf
        try:
            found = self._through(node, at, value.dtype)
        except Mismatch as reason:
            return dataclasses.replace(leaf, why=str(reason))
        if found is None or _is_settled(found, at):
            return leaf
        self.nodes[node] = None
        return found

    def _constant(self, value: onnx_ir.Value, leaf: Leaf) -> Expression:
        """Return a number, a count, or an element of the constant."""
        tensor = value.const_value
        assert tensor is not None
        if tensor.size == 1:
            array = constant(value)
            assert array is not None
            return Number(array.reshape(-1)[0].item(), leaf.dtype)
        counted = constant_ints(value) if tensor.size <= 1 << 16 and len(leaf.at) > 0 else None
        if counted is not None and sum(size > 1 for size in tensor.shape.numpy()) == 1:
            place = next(
                p for p, size in zip(leaf.at, tensor.shape.numpy(), strict=True) if size > 1
            )
            step = counted[1] - counted[0]
            if counted == tuple(range(counted[0], counted[0] + step * len(counted), step or 1)):
                return _counted(place, counted[0], step)
        return leaf

    def _through(
        self, node: onnx_ir.Node, at: Coordinates, dtype: onnx_ir.DataType
    ) -> Expression | None:
        """Return the element in terms of the node's inputs, or None where the node is opaque."""
        if node.op_type in _ELEMENTWISE:
            return apply(node.op_type, self._operands(node, at), dtype)
        if node.op_type in {"Max", "Min"} and len(node.inputs) == 2:
            return apply(node.op_type, self._operands(node, at), dtype)
        if node.op_type == "Cast":
            return apply("Cast", self._operands(node, at), dtype)
        rule = _RULES.get(node.op_type)
        return None if rule is None else rule(self, node, at)

    def _operands(self, node: onnx_ir.Node, at: Coordinates) -> Coordinates:
        return tuple(self._broadcast(_input(node, k), at) for k in range(len(node.inputs)))

    def _broadcast(self, value: onnx_ir.Value, at: Coordinates) -> Expression:
        """Read an operand that is broadcast to the coordinates."""
        count = known_rank(value)
        return self.read(value, at[len(at) - count :] if count else ())

    def fresh_axis(self) -> Index:
        """Return the index of an axis that nothing else has."""
        return Index(next(self._fresh))


def is_plain(at: Coordinates) -> bool:
    """Tell whether the coordinates are indices of different axes, and first places."""
    axes = [place.axis for place in at if isinstance(place, Index)]
    rest = [place for place in at if not isinstance(place, Index)]
    return len(set(axes)) == len(axes) and all(place == _ZERO for place in rest)


def _is_settled(found: Expression, at: Coordinates) -> bool:
    """Tell whether a tensor may stay as it is: it belongs to queries or keys alone and depends on data."""
    if _mixed(at) or not is_plain(at):
        return False
    return any(isinstance(part, Leaf) and not is_constant(part.tensor) for part in walk(found))


def _input(node: onnx_ir.Node, index: int) -> onnx_ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Mismatch(f"input {index} of {node.op_type} is missing")
    return value


def _counted(place: Expression, start: int, step: int) -> Expression:
    scaled = apply("Mul", (place, Number(step)), onnx_ir.DataType.INT64)
    return apply("Add", (scaled, Number(start)), onnx_ir.DataType.INT64)


def _pass(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    return reader.read(_input(node, 0), at)


def _unsqueeze(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    axes = from_zero(written_axes(node) or (), len(at))
    return reader.read(_input(node, 0), tuple(p for k, p in enumerate(at) if k not in axes))


def _squeeze(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    count = known_rank(_input(node, 0))
    axes = written_axes(node)
    if axes is None:
        return _reshape(reader, node, at)
    places = iter(at)
    gone = from_zero(axes, count)
    return reader.read(
        _input(node, 0), tuple(_ZERO if k in gone else next(places) for k in range(count))
    )


def _reshape(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    """Look through a reshape that only inserts and drops dimensions of size 1."""
    source = _input(node, 0)
    before, after = dimensions(source), dimensions(node.outputs[0])
    if before is None or after is None or None in before or None in after:
        raise Mismatch("the shapes are not known")
    if [size for size in before if size != 1] != [size for size in after if size != 1]:
        raise Mismatch("dimensions are merged or split")
    places = iter(p for p, size in zip(at, after, strict=True) if size != 1)
    return reader.read(source, tuple(_ZERO if size == 1 else next(places) for size in before))


def _transpose(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    order = attribute_ints(node, "perm", tuple(reversed(range(len(at)))))
    assert order is not None
    places = dict(zip(order, at, strict=True))
    return reader.read(_input(node, 0), tuple(places[k] for k in range(len(at))))


def _expand(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    source = _input(node, 0)
    sizes, wanted = dimensions(source), dimensions(node.outputs[0])
    if sizes is None or wanted is None:
        raise Mismatch("the shapes are not known")
    tail = wanted[len(wanted) - len(sizes) :] if sizes else ()
    if any(size != 1 and size != target for size, target in zip(sizes, tail, strict=True)):
        raise Mismatch("it is not known which dimensions are repeated")
    return reader.read(source, at[len(at) - len(sizes) :] if sizes else ())


def _range(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    dtype = node.outputs[0].dtype
    assert dtype is not None
    start, step = (reader.read(_input(node, k), ()) for k in (0, 2))
    place = apply("Cast", at, dtype)
    return apply("Add", (apply("Mul", (place, step), dtype), start), dtype)


def _slice(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    places = list(at)
    for part in ranges_of(node):
        if part.start < 0 or part.step < 1:
            raise Mismatch("it counts from the end")
        axis = part.axis % len(at)
        places[axis] = _counted(places[axis], part.start, part.step)
    return reader.read(_input(node, 0), tuple(places))


def _gather(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    data, indices = _input(node, 0), _input(node, 1)
    axis = attribute_int(node, "axis", 0) % known_rank(data)
    count = known_rank(indices)
    index = reader.read(indices, at[axis : axis + count])
    return reader.read(data, (*at[:axis], index, *at[axis + count :]))


def _gather_nd(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    if attribute_int(node, "batch_dims", 0):
        raise Mismatch("it has batch dimensions")
    data, indices = _input(node, 0), _input(node, 1)
    sizes = dimensions(indices)
    if sizes is None or not isinstance(sizes[-1], int):
        raise Mismatch("the number of indices is not known")
    own, rest = at[: len(sizes) - 1], at[len(sizes) - 1 :]
    found = tuple(reader.read(indices, (*own, Number(k))) for k in range(sizes[-1]))
    return reader.read(data, (*found, *rest))


def _concat(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    axis = attribute_int(node, "axis", 0) % len(at)
    place = at[axis]
    if not isinstance(place, Number):
        raise Mismatch("it depends on the position which part is read")
    left = int(place.value)
    for index in range(len(node.inputs)):
        part = _input(node, index)
        size = (dimensions(part) or (None,))[axis]
        if not isinstance(size, int):
            break
        if left < size:
            return reader.read(part, (*at[:axis], Number(left), *at[axis + 1 :]))
        left -= size
    raise Mismatch("the sizes are not known")


def _trilu(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    offset = 0
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        found = constant_ints(node.inputs[1])
        if found is None:
            raise Mismatch("its diagonal is computed at run time")
        offset = found[0]
    body = reader.read(_input(node, 0), at)
    op = "GreaterOrEqual" if attribute_int(node, "upper", 1) else "LessOrEqual"
    diagonal = apply("Add", (at[-2], Number(offset)), onnx_ir.DataType.INT64)
    inside = apply(op, (at[-1], diagonal), onnx_ir.DataType.BOOL)
    return apply("Where", (inside, body, Number(0, body.dtype)), body.dtype)


def _constant_of_shape(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    dtype = node.outputs[0].dtype
    assert dtype is not None
    given = node.attributes.get("value")
    return Number(0.0 if given is None else given.as_tensor().numpy().item(), dtype)


def _matmul(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    """Multiply out a product whose rows and columns belong to queries and keys."""
    left, right = _input(node, 0), _input(node, 1)
    if not _mixed(at) or min(known_rank(left), known_rank(right)) < 2:
        raise Mismatch("it is no product of positions")
    size = (dimensions(left) or (None,))[-1]
    place = reader.fresh_axis()
    rows = (*at[:-1], place)[len(at) - known_rank(left) :]
    columns = (*at[:-2], place, at[-1])[len(at) - known_rank(right) :]
    return _sum(size, place, [(left, rows), (right, columns)], reader)


def _sum(
    size: int | str | None,
    place: Index,
    parts: Sequence[tuple[onnx_ir.Value, Coordinates]],
    reader: Reader,
) -> Expression:
    if not isinstance(size, int) or size > _WIDEST:
        raise Mismatch(f"it sums over {size} positions")
    factors = tuple(reader.read(value, places) for value, places in parts)
    dtype = factors[0].dtype
    body = factors[0] if len(factors) == 1 else apply("Mul", factors, dtype)
    if size == 1:
        return body
    return Sum(place.axis, size, body, dtype)


def _reduce_sum(reader: Reader, node: onnx_ir.Node, at: Coordinates) -> Expression:
    source = _input(node, 0)
    count = known_rank(source)
    axes = written_axes(node)
    if not _mixed(at) or axes is None or len(axes) != 1:
        raise Mismatch("it is no sum at a pair of positions")
    (axis,) = from_zero(axes, count)
    place = reader.fresh_axis()
    kept = attribute_int(node, "keepdims", 1)
    places = (*at[:axis], place, *at[axis + 1 :]) if kept else (*at[:axis], place, *at[axis:])
    size = (dimensions(source) or ())[axis]
    times = 2 if node.op_type == "ReduceSumSquare" else 1
    return _sum(size, place, [(source, places)] * times, reader)


def _mixed(at: Coordinates) -> bool:
    """Tell whether the coordinates name a query and a key."""
    return {QUERY, KEY} <= frozenset[int]().union(*(axes_of(place) for place in at))


_RULES: dict[str, Callable[[Reader, onnx_ir.Node, Coordinates], Expression]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Identity": _pass,
    "MatMul": _matmul,
    "Range": _range,
    "ReduceSum": _reduce_sum,
    "ReduceSumSquare": _reduce_sum,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
