"""Find what a bias is computed from: the last values before queries and keys meet.

Every dimension of a value carries the axis of the bias that it runs over, or none. Walking upstream from the bias,
operators say which dimension of an operand a dimension of the result comes from, until a value runs over queries or
over keys but not over both: those are the features of single positions.
"""

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    attribute_int,
    attribute_ints,
    attribute_string,
    dimensions,
    is_constant,
)
from whet.passes.attention.expression import BATCH, KEY, QUERY, Expression, Index, Leaf, walk
from whet.passes.forms import axes_of as written_axes
from whet.passes.forms import from_zero, known_rank, ranges_of

__all__ = ["Feature", "Labels", "PairFeatures", "find_features"]

Labels = tuple[int | None, ...]
"""The axis of the bias (BATCH, HEAD, QUERY, KEY) that each dimension runs over; None for any other."""

_PAIR = {QUERY, KEY}
_REACH = 400
"""Biases that take more nodes than this are not walked through."""
_ELEMENTWISE = {
    "Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
}  # fmt: skip
_SAME_PLACE = {"LayerNormalization", "RMSNormalization", "LogSoftmax", "Softmax", "LpNormalization"}
_VIEWS = {"Identity", "Squeeze", "Transpose", "Unsqueeze"}
_NO_DATA = {"ConstantOfShape", "EyeLike", "Shape", "Size"}


@dataclasses.dataclass(frozen=True)
class Feature:
    """A value that holds features of single positions."""

    value: onnx_ir.Value
    labels: Labels

    @property
    def order(self) -> tuple[int, ...]:
        """Return the dimensions as batch (if there is one), position, and then what are features."""
        places = range(len(self.labels))
        first = [k for k in places if self.labels[k] == BATCH]
        first += [k for k in places if self.labels[k] in _PAIR]
        return (*first, *(k for k in places if k not in first))

    @property
    def has_batch(self) -> bool:
        """Tell whether samples have features of their own."""
        return BATCH in self.labels

    @property
    def width(self) -> int:
        """Return how many features a position has; raises Mismatch where that is not fixed."""
        sizes = dimensions(self.value)
        total = 1
        for k in self.order[2 if self.has_batch else 1 :]:
            size = None if sizes is None else sizes[k]
            if not isinstance(size, int):
                raise Mismatch(f"the number of features in '{self.value.name}' is not fixed")
            total *= size
        return total


@dataclasses.dataclass
class PairFeatures:
    """Features of queries and of keys, and the nodes between them and the bias, readers first."""

    query: list[Feature] = dataclasses.field(default_factory=list[Feature])
    key: list[Feature] = dataclasses.field(default_factory=list[Feature])
    nodes: dict[onnx_ir.Node, None] = dataclasses.field(default_factory=dict[onnx_ir.Node, None])
    opaque: list[str] = dataclasses.field(default_factory=list[str])
    """Where values of pairs come from that were not followed further."""
    _seen: set[tuple[onnx_ir.Value, Labels]] = dataclasses.field(
        default_factory=set[tuple[onnx_ir.Value, Labels]]
    )

    def visit(self, value: onnx_ir.Value, labels: Labels) -> None:
        """Follow a value to the features it is made of."""
        sizes = dimensions(value) or (None,) * len(labels)
        labels = tuple(None if s == 1 else a for a, s in zip(labels, sizes, strict=True))
        if is_constant(value) or (value, labels) in self._seen:
            return
        self._seen.add((value, labels))
        if len(self._seen) > _REACH:
            raise Mismatch(f"the bias takes more than {_REACH} nodes")
        places = [axis for axis in labels if axis in _PAIR]
        if len(places) == 1:
            self._collect(value, labels)
        elif places:
            self._follow(value, labels)

    def _collect(self, value: onnx_ir.Value, labels: Labels) -> None:
        """Take a value of single positions, or what it is a view or a widened linear function of."""
        node = value.producer()
        if node is not None and node.op_type in _NO_DATA:
            return
        before = None if node is None else _narrower(node, value, labels)
        if node is not None and before is not None:
            self.nodes[node] = None
            self.visit(*before)
            return
        if labels.count(BATCH) > 1 or value.dtype is None or value.dtype.is_string():
            raise Mismatch(f"'{value.name}' is no tensor of features")
        side = self.query if QUERY in labels else self.key
        side.append(Feature(value, labels))

    def _follow(self, value: onnx_ir.Value, labels: Labels) -> None:
        node = value.producer()
        if node is None:
            self.opaque.append(f"'{value.name}', an input of the model, has a value for every pair")
            return
        try:
            operands = _operands(node, labels)
        except Mismatch as reason:
            self.opaque.append(
                f"'{value.name}', made by {node.op_type}, was not followed: {reason}"
            )
            return
        self.nodes[node] = None
        for source, inner in operands:
            self.visit(source, inner)


def find_features(part: Expression) -> PairFeatures:
    """Return the features that a bias is computed from; raises Mismatch where queries or keys have none."""
    found = PairFeatures()
    for leaf in walk(part):
        if isinstance(leaf, Leaf) and not is_constant(leaf.tensor):
            labels = tuple(p.axis if isinstance(p, Index) and p.axis < 4 else None for p in leaf.at)
            found.visit(leaf.tensor, labels)
    for side, what in ((found.query, "queries"), (found.key, "keys")):
        if not side:
            raise Mismatch("; ".join(found.opaque) or f"it is computed from no features of {what}")
    return found


def _narrower(
    node: onnx_ir.Node, value: onnx_ir.Value, labels: Labels
) -> tuple[onnx_ir.Value, Labels] | None:
    """Return what the node moves the dimensions of, or maps linearly to more features than it has."""
    if node.domain != "" or node.op_type not in {*_VIEWS, "Add", "Gemm", "MatMul"}:
        return None
    try:
        sources = [(v, inner) for v, inner in _operands(node, labels) if not is_constant(v)]
        if len(sources) != 1 or _PAIR.isdisjoint(sources[0][1]):
            return None
        widths = [Feature(*place).width for place in (sources[0], (value, labels))]
    except Mismatch:
        return None
    grows = node.op_type == "Add" or widths[0] < widths[1]
    return sources[0] if grows or node.op_type in _VIEWS else None


_Operands = list[tuple[onnx_ir.Value, Labels]]
_Rule = Callable[[onnx_ir.Node, Labels], _Operands]


def _operands(node: onnx_ir.Node, labels: Labels) -> _Operands:
    """Return what the node reads, with labels; raises Mismatch for an operator without a rule."""
    if node.domain not in ("", "ai.onnx"):
        raise Mismatch(f"domain '{node.domain}' is not known")
    if node.op_type in _ELEMENTWISE:
        return [(v, _broadcast(v, labels)) for v in node.inputs if v is not None]
    if node.op_type in _SAME_PLACE:
        return [(_input(node, 0), labels)]
    rule = _RULES.get(node.op_type)
    if rule is None:
        raise Mismatch("there is no rule for it")
    return rule(node, labels)


def _input(node: onnx_ir.Node, index: int) -> onnx_ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Mismatch(f"input {index} is missing")
    return value


def _broadcast(value: onnx_ir.Value, labels: Labels) -> Labels:
    return labels[len(labels) - known_rank(value) :]


def _expand(node: onnx_ir.Node, labels: Labels) -> _Operands:
    return [(_input(node, 0), _broadcast(_input(node, 0), labels))]


def _transpose(node: onnx_ir.Node, labels: Labels) -> _Operands:
    order = attribute_ints(node, "perm", tuple(reversed(range(len(labels)))))
    assert order is not None
    places = dict(zip(order, labels, strict=True))
    return [(_input(node, 0), tuple(places[k] for k in range(len(labels))))]


def _unsqueeze(node: onnx_ir.Node, labels: Labels) -> _Operands:
    axes = from_zero(written_axes(node) or (), len(labels))
    return [(_input(node, 0), tuple(a for k, a in enumerate(labels) if k not in axes))]


def _squeeze(node: onnx_ir.Node, labels: Labels) -> _Operands:
    source = _input(node, 0)
    count = known_rank(source)
    axes = written_axes(node)
    if axes is None:
        raise Mismatch("it is not said which dimensions are dropped")
    gone, rest = from_zero(axes, count), iter(labels)
    return [(source, tuple(None if k in gone else next(rest) for k in range(count)))]


def _reshape(node: onnx_ir.Node, labels: Labels) -> _Operands:
    """Keep the labels of dimensions that stay; a split or merged dimension must have none."""
    source = _input(node, 0)
    before, after = dimensions(source), dimensions(node.outputs[0])
    if before is None or after is None:
        raise Mismatch("its shapes are not known")
    front = _common(before, after)
    back = _common(before[front:][::-1], after[front:][::-1])
    moved = labels[front : len(after) - back]
    if any(axis is not None for axis in moved):
        raise Mismatch("positions or heads are merged with something else")
    inner = (None,) * (len(before) - front - back)
    return [(source, (*labels[:front], *inner, *labels[len(after) - back :]))]


def _common(a: Sequence[int | str | None], b: Sequence[int | str | None]) -> int:
    count = 0
    for one, other in zip(a, b, strict=False):
        if one is None or one != other:
            break
        count += 1
    return count


def _matmul(node: onnx_ir.Node, labels: Labels) -> _Operands:
    left, right = _input(node, 0), _input(node, 1)
    if min(known_rank(left), known_rank(right)) < 2:
        raise Mismatch("an operand is a vector")
    rows, columns = (*labels[:-1], None), (*labels[:-2], None, labels[-1])
    return [(left, _broadcast(left, rows)), (right, _broadcast(right, columns))]


def _gemm(node: onnx_ir.Node, labels: Labels) -> _Operands:
    rows, columns = (labels[0], None), (None, labels[1])
    left = rows[::-1] if attribute_int(node, "transA", 0) else rows
    right = columns[::-1] if attribute_int(node, "transB", 0) else columns
    found: _Operands = [(_input(node, 0), left), (_input(node, 1), right)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append((node.inputs[2], _broadcast(node.inputs[2], labels)))
    return found


def _einsum(node: onnx_ir.Node, labels: Labels) -> _Operands:
    equation = attribute_string(node, "equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow or "." in equation or len(right) != len(labels):
        raise Mismatch(f"its equation is '{equation}'")
    of = dict(zip(right, labels, strict=True))
    return [
        (_input(node, k), tuple(of.get(letter) for letter in letters))
        for k, letters in enumerate(left.split(","))
    ]


def _concat(node: onnx_ir.Node, labels: Labels) -> _Operands:
    axis = attribute_int(node, "axis", 0) % len(labels)
    _check_free(labels, [axis])
    return [(v, labels) for v in node.inputs if v is not None]


def _slice(node: onnx_ir.Node, labels: Labels) -> _Operands:
    _check_free(labels, [part.axis % len(labels) for part in ranges_of(node) if not part.is_full])
    return [(_input(node, 0), labels)]


def _split(node: onnx_ir.Node, labels: Labels) -> _Operands:
    _check_free(labels, [attribute_int(node, "axis", 0) % len(labels)])
    return [(_input(node, 0), labels)]


def _check_free(labels: Labels, axes: Sequence[int]) -> None:
    if any(labels[axis] is not None for axis in axes):
        raise Mismatch("it takes positions or heads apart")


def _gather(node: onnx_ir.Node, labels: Labels) -> _Operands:
    data, indices = _input(node, 0), _input(node, 1)
    axis = attribute_int(node, "axis", 0) % known_rank(data)
    count = known_rank(indices)
    outer = (*labels[:axis], None, *labels[axis + count :])
    return [(data, outer), (indices, labels[axis : axis + count])]


def _gather_elements(node: onnx_ir.Node, labels: Labels) -> _Operands:
    axis = attribute_int(node, "axis", 0) % len(labels)
    data = tuple(None if k == axis else a for k, a in enumerate(labels))
    return [(_input(node, 0), data), (_input(node, 1), labels)]


def _reduce(node: onnx_ir.Node, labels: Labels) -> _Operands:
    source = _input(node, 0)
    count = known_rank(source)
    axes = written_axes(node)
    if axes is None:
        raise Mismatch("it reduces every dimension")
    gone, rest = from_zero(axes, count), iter(labels)
    if attribute_int(node, "keepdims", 1):
        return [(source, tuple(None if k in gone else a for k, a in enumerate(labels)))]
    return [(source, tuple(None if k in gone else next(rest) for k in range(count)))]


def _one_hot(node: onnx_ir.Node, labels: Labels) -> _Operands:
    axis = attribute_int(node, "axis", -1) % len(labels)
    return [(_input(node, 0), (*labels[:axis], *labels[axis + 1 :]))]


_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Concat": _concat,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
