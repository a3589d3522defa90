"""Operators that keep every index where it is."""

from collections.abc import Mapping, Sequence

import numpy as np

from whet.analysis.coupling.terms import Vector
from whet.analysis.coupling.trace import Axes, Rule, Use

__all__ = ["ELEMENTWISE", "broadcast"]


def broadcast(use: Use, operands: Sequence[int], drop: int = 0) -> Axes | None:
    """Join aligned axes of operands, the last ``drop`` axes of each left out; None where a rank is unknown.

    An axis of size one takes what the others have; an axis that never changes keeps the others from changing.
    """
    known = [use.axes(k) for k in operands]
    if any(axes is None for axes in known):
        for axes in known:
            use.fix(axes or (), "meets an operand of unknown rank")
        return None
    rank = max(len(axes or ()) for axes in known) - drop
    return tuple(_aligned(use, operands, axis - rank - drop) for axis in range(rank))


def _aligned(use: Use, operands: Sequence[int], axis: int) -> Vector | None:
    """Return the common axis at ``axis``, counted from the end."""
    parts: list[Vector | None] = []
    for k in operands:
        sizes = use.sizes(k)
        if len(sizes) >= -axis and sizes[axis] != 1:
            parts.append((use.axes(k) or ())[axis])
    if not parts:
        return None
    found = parts[0]
    for part in parts[1:]:
        found = use.join(found, part)
    return found


def _same(use: Use) -> list[Axes | None]:
    """Return the axes of the first operand; the others are numbers."""
    for k in range(1, len(use.operands)):
        use.fix(use.axes(k) or (), "reads it as a number")
    return [use.axes(0)] * len(use.node.outputs)


def _nary(use: Use) -> list[Axes | None]:
    found = broadcast(use, range(len(use.operands)))
    if use.node.op_type in ("Add", "Sum") and found is not None:
        computed = [v for v in use.node.inputs if v is not None and v.const_value is None]
        if len(computed) > 1:
            use.tag(next((v for v in reversed(found) if v is not None), None), "sum")
    return [found]


def _slope(use: Use) -> list[Axes | None]:
    """Return the axes of PRelu, whose slope is broadcast to the data."""
    return [broadcast(use, (0, 1))]


def _batch_norm(use: Use) -> list[Axes | None]:
    """Join the channels with the four vectors that belong to them."""
    axes = use.axes(0)
    if axes is None or len(axes) < 2 or use.number("training_mode", 0):
        return use.give_up("is not understood in this form")
    for k in range(1, len(use.operands)):
        vector = use.axes(k)
        use.join(axes[1], vector[0] if vector else None)
    return [axes]


def _along(use: Use) -> list[Axes | None]:
    """Return the axes of an operator that mixes all indices of one axis: a softmax, a running sum."""
    axes = use.axes(0)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    given = use.ints(1) if use.node.op_type == "CumSum" else (use.number("axis", -1),)
    if given is None or len(given) != 1:
        return use.give_up("works along a computed axis")
    use.fix((axes[given[0]],), "mixes all indices")
    return [axes]


def _reduction(use: Use) -> list[Axes | None]:
    """Return the axes that a reduction leaves; those that it reduces never change."""
    axes = use.axes(0)
    given = use.ints(1) if len(use.node.inputs) > 1 else None
    if given is None and "axes" in use.node.attributes:
        given = tuple(use.node.attributes["axes"].as_ints())
    if axes is None or (given is None and len(use.node.inputs) > 1):
        return use.give_up("reduces axes that are not known")
    if given is None and use.number("noop_with_empty_axes", 0):
        return [axes]
    gone = {a % len(axes) for a in (range(len(axes)) if given is None else given)}
    return [_reduced(use, axes, gone)]


def _reduced(use: Use, axes: Axes, gone: set[int]) -> Axes:
    use.fix([axes[a] for a in gone], "reduces over them")
    if use.number("keepdims", 1):
        return tuple(None if a in gone else axes[a] for a in range(len(axes)))
    return tuple(axes[a] for a in range(len(axes)) if a not in gone)


def _extreme(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    return [_reduced(use, axes, {use.number("axis", 0) % len(axes)})]


def _shape(use: Use) -> list[Axes | None]:
    """Keep what is read of a shape: only axes that never change may be read."""
    axes = use.axes(0) or ()
    start, end = use.number("start", 0), use.number("end", len(axes))
    vectors = axes[start:end]
    if all(vector is None for vector in vectors):
        return [None]
    for place in _read_places(use, len(vectors)):
        use.fix((vectors[place],), "is read for their number")
    return [None]


def _read_places(use: Use, count: int) -> list[int]:
    """Return the places of a shape that somebody reads, all of them where it is not clear."""
    value = use.node.outputs[0]
    if value.is_graph_output():
        return list(range(count))
    found: set[int] = set()
    for reader in value.consumers():
        index = use.trace.sizes.content(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if reader.op_type != "Gather" or index is None or index.numbers is None:
            return list(range(count))
        found.update(int(i) % count for i in np.atleast_1d(index.numbers))
    return sorted(found)


_UNARY = (
    *("Identity", "Cast", "CastLike", "Dropout", "Not", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp"),
    *("Log", "Erf", "Relu", "LeakyRelu", "Gelu", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Clip", "Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Swish"),
    *("Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf"),
)
_NARY = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Where", "Max", "Min", "Sum"),
    *("Mean", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
_REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
ELEMENTWISE: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_NARY, _nary),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "CumSum"), _along),
    **dict.fromkeys(("ArgMax", "ArgMin"), _extreme),
    "BatchNormalization": _batch_norm,
    "PRelu": _slope,
    "Shape": _shape,
}
