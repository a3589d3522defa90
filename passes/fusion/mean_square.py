"""Read means, variances and deviations in all their spellings."""

import dataclasses
import math
from collections.abc import Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, dimensions, is_op
from whet.passes.forms import axes_of, from_zero, known_rank
from whet.passes.fusion.expansion import number, uncast

__all__ = ["Deviation", "Mean", "read_deviation", "read_mean"]

_CLOSE = 1e-3
"""Constants in float16 carry eleven bits."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean of ``x`` over ``axes``, which stay as axes of size one."""

    x: onnx_ir.Value
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Deviation:
    """The root of ``base``: ``mean((x - mean(x))**2) + epsilon`` if centered, else ``mean(x**2) + epsilon``."""

    base: onnx_ir.Value
    x: onnx_ir.Value
    """Before any casts."""
    axes: tuple[int, ...]
    """The last ones."""
    epsilon: float
    centered: bool

    def is_mean(self, value: onnx_ir.Value) -> bool:
        """Tell whether a value is the mean that the input is centered by."""
        try:
            return read_mean(value) == Mean(self.x, self.axes)
        except Mismatch:
            return False


def read_mean(value: onnx_ir.Value) -> Mean | None:
    """Read ReduceMean, or ReduceSum divided by the count; None if ``value`` is neither.

    Raises Mismatch where it almost is: an unknown axis, or a sum divided by another number.
    """
    found = _reduced(uncast(value), "ReduceMean", "ReduceSum")
    return None if found is None else Mean(uncast(found[0]), found[1])


def _reduced(
    value: onnx_ir.Value, mean: str, total: str
) -> tuple[onnx_ir.Value, tuple[int, ...]] | None:
    """Return what is averaged, over which axes."""
    node = value.producer()
    if is_op(node, mean):
        return _reduction(node)
    divided = _divided_sum(node, total)
    if divided is None:
        return None
    reduce, divisor = divided
    x, axes = _reduction(reduce)
    count = _count(x, axes)
    if count is None:
        raise Mismatch(f"the size of axes {axes}, over which is summed, is not known")
    if not math.isclose(divisor, count, rel_tol=_CLOSE / 2 / count):
        raise Mismatch(f"a sum of {count} elements is divided by {divisor:g}")
    return x, axes


def _divided_sum(node: onnx_ir.Node | None, total: str) -> tuple[onnx_ir.Node, float] | None:
    """Return the summing node and the number that its sum is divided by."""
    if node is None or not is_op(node, "Div", "Mul"):
        return None
    for at in (0, 1) if node.op_type == "Mul" else (0,):
        operand = node.inputs[at]
        divisor = number(node.inputs[1 - at])
        reduce = None if operand is None else uncast(operand).producer()
        if divisor and reduce is not None and is_op(reduce, total):
            return reduce, divisor if node.op_type == "Div" else 1 / divisor
    return None


def _reduction(node: onnx_ir.Node | None) -> tuple[onnx_ir.Value, tuple[int, ...]]:
    assert node is not None
    x = node.inputs[0]
    size = known_rank(x)
    assert x is not None
    axes = axes_of(node)
    if not axes and attribute_int(node, "noop_with_empty_axes", 0):
        raise Mismatch(f"{node.op_type} '{node.name}' reduces nothing")
    if not attribute_int(node, "keepdims", 1):
        raise Mismatch(f"{node.op_type} '{node.name}' drops the axes it reduces")
    return x, tuple(sorted(from_zero(axes or range(size), size)))


def _count(x: onnx_ir.Value, axes: Sequence[int]) -> int | None:
    sizes = dimensions(x)
    if sizes is None:
        return None
    counts = [sizes[axis] for axis in axes]
    known = [size for size in counts if isinstance(size, int)]
    return math.prod(known) if len(known) == len(counts) else None


def read_deviation(root: onnx_ir.Node) -> Deviation | None:
    """Read what a Sqrt, or a power of plus or minus one half, is taken of; None if that is no mean of squares.

    Raises Mismatch for what almost is one.
    """
    base = _under_root(root)
    if base is None:
        return None
    spread, epsilon = _without_epsilon(base)
    found = _mean_square(spread)
    if found is None:
        _explain(spread)
        return None
    x, axes, centered = found
    size = known_rank(x)
    if axes != tuple(range(size - len(axes), size)):
        raise Mismatch(f"normalizes over axes {axes} of {size}, which are not the last ones")
    if epsilon < 0:
        raise Mismatch(f"epsilon is {epsilon:g}")
    return Deviation(base, x, axes, epsilon, centered)


def _under_root(root: onnx_ir.Node) -> onnx_ir.Value | None:
    value = root.inputs[0] if root.inputs else None
    if value is None or not is_op(root, "Sqrt", "Pow"):
        return None
    if root.op_type == "Pow" and abs(number(root.inputs[1]) or 0.0) != 0.5:
        return None
    return _without_inverse(uncast(value))


def _without_inverse(value: onnx_ir.Value) -> onnx_ir.Value:
    node = value.producer()
    if node is None:
        return value
    at = 0 if is_op(node, "Reciprocal") else 1
    if at and not (is_op(node, "Div") and number(node.inputs[0]) == 1.0):
        return value
    found = node.inputs[at]
    return value if found is None else uncast(found)


def _without_epsilon(base: onnx_ir.Value) -> tuple[onnx_ir.Value, float]:
    node = base.producer()
    if node is None or not is_op(node, "Add"):
        return base, 0.0
    left, right = node.inputs
    for one, other in ((left, right), (right, left)):
        epsilon = number(other)
        if epsilon is not None and one is not None:
            return uncast(one), epsilon
    return base, 0.0


def _mean_square(value: onnx_ir.Value) -> tuple[onnx_ir.Value, tuple[int, ...], bool] | None:
    """Return input, axes, and whether the mean is taken off first."""
    value = _not_negative(value)
    node = value.producer()
    if node is not None and is_op(node, "Sub"):
        return _difference_of_squares(node)
    averaged = _averaged_square(value)
    if averaged is None:
        return None
    x, axes = averaged
    return _centered(x, axes) or (x, axes, False)


def _not_negative(value: onnx_ir.Value) -> onnx_ir.Value:
    """Look through a clamp at zero, which does nothing to a variance but for its rounding."""
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return value
    clip = is_op(node, "Clip", "Max") and len(node.inputs) == 2
    if is_op(node, "Relu", "Abs") or (clip and number(node.inputs[1]) == 0.0):
        return uncast(node.inputs[0])
    return value


def _averaged_square(value: onnx_ir.Value) -> tuple[onnx_ir.Value, tuple[int, ...]] | None:
    """Return ``x`` and the axes if ``value`` is the mean of ``x**2``."""
    summed = _reduced(value, "", "ReduceSumSquare")
    if summed is not None:
        return uncast(summed[0]), summed[1]
    mean = read_mean(value)
    square = None if mean is None else _squared(mean.x)
    return None if mean is None or square is None else (square, mean.axes)


def _squared(value: onnx_ir.Value) -> onnx_ir.Value | None:
    node = uncast(value).producer()
    if node is None or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if is_op(node, "Pow") and number(right) == 2.0:
        return uncast(left)
    if is_op(node, "Mul") and uncast(left) is uncast(right):
        return uncast(left)
    return None


def _centered(
    d: onnx_ir.Value, axes: tuple[int, ...]
) -> tuple[onnx_ir.Value, tuple[int, ...], bool] | None:
    """Return what ``d`` was before its mean over ``axes`` was taken off."""
    node = d.producer()
    if node is None or not is_op(node, "Sub"):
        return None
    left, right = node.inputs
    assert left is not None
    assert right is not None
    for x, mean in ((left, right), (right, left)):
        found = _mean_of(mean, uncast(x))
        if found is None:
            continue
        if found.axes != axes:
            raise Mismatch(f"the mean is over axes {found.axes}, the variance over {axes}")
        return found.x, axes, True
    return None


def _mean_of(value: onnx_ir.Value, x: onnx_ir.Value) -> Mean | None:
    try:
        found = read_mean(value)
    except Mismatch:
        return None
    return found if found is not None and found.x is x else None


def _difference_of_squares(
    node: onnx_ir.Node,
) -> tuple[onnx_ir.Value, tuple[int, ...], bool] | None:
    """Read ``mean(x**2) - mean(x)**2``."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    averaged, square = _averaged_square(uncast(left)), _squared(right)
    mean = None if square is None else read_mean(square)
    if averaged is None or mean is None or mean.x is not averaged[0]:
        return None
    if mean.axes != averaged[1]:
        raise Mismatch(f"the mean is over axes {mean.axes}, the square's over {averaged[1]}")
    return averaged[0], averaged[1], True


def _explain(spread: onnx_ir.Value) -> None:
    """Raise for a mean of squares that is changed before its root is taken."""
    node = spread.producer()
    if node is None or not is_op(node, "Mul", "Div", "Clip", "Max"):
        return
    for value in node.inputs[:2]:
        if value is None or number(value) is not None:
            continue
        found = _mean_square(uncast(value))
        if found is None:
            continue
        if node.op_type in ("Clip", "Max"):
            raise Mismatch("the mean of squares is clipped instead of epsilon being added")
        other = next((number(v) for v in node.inputs if number(v) is not None), None)
        raise Mismatch(f"the mean of squares is scaled ({node.op_type} by {other}) before the root")
