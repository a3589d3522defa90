"""Find out that every element of a tensor is one and the same number."""

from collections.abc import Callable

import numpy as np
import onnx_ir

from whet.ir.values import attribute_int, constant, is_constant, is_op

__all__ = ["uniform"]

Number = float | bool

_DEPTH = 12
_MOVES = (
    *("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Identity"),
    *("Slice", "Tile", "Gather", "GatherND", "GatherElements"),
)
_COMPUTED: dict[str, Callable[[float, float], Number]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Xor": lambda a, b: a != b,
}


def uniform(
    value: onnx_ir.Value | None, seen: list[onnx_ir.Node], depth: int = _DEPTH
) -> Number | None:
    """Return the number that all elements have, whatever the sizes; None where that is not certain.

    The nodes that were looked at are noted in ``seen``, readers first.
    """
    if value is None or depth == 0:
        return None
    if is_constant(value):
        return _of_constant(value)
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    seen.append(node)
    if is_op(node, *_MOVES):
        return uniform(node.inputs[0], seen, depth - 1)
    if is_op(node, "Where"):
        return _of_where(node, seen, depth - 1)
    if is_op(node, "ConstantOfShape"):
        return _of_fill(node)
    if is_op(node, "And", "Or"):
        return _of_logic(node, seen, depth - 1)
    if is_op(node, "Not", "Cast", "Neg"):
        return _of_unary(node, seen, depth - 1)
    return _of_numbers(node, seen, depth - 1)


def _of_constant(value: onnx_ir.Value) -> Number | None:
    array = constant(value)
    if array is None or array.size == 0 or array.dtype.kind not in "fiub":
        return None
    first = array.reshape(-1)[0]
    if not bool(np.all(array == first)):
        return None
    return bool(first) if array.dtype.kind == "b" else float(first)


def _of_fill(node: onnx_ir.Node) -> Number:
    given = node.attributes.get("value")
    return 0.0 if given is None else given.as_tensor().numpy().reshape(-1)[0].item()


def _of_where(node: onnx_ir.Node, seen: list[onnx_ir.Node], depth: int) -> Number | None:
    condition = uniform(node.inputs[0], seen, depth)
    if condition is not None:
        return uniform(node.inputs[1 if condition else 2], seen, depth)
    one, other = (uniform(value, seen, depth) for value in node.inputs[1:3])
    return one if one is not None and one == other else None


def _of_logic(node: onnx_ir.Node, seen: list[onnx_ir.Node], depth: int) -> Number | None:
    """``And`` is false and ``Or`` true as soon as one side is."""
    found = [uniform(value, seen, depth) for value in node.inputs]
    deciding = node.op_type == "Or"
    if any(side is not None and bool(side) is deciding for side in found):
        return deciding
    return None if None in found else not deciding


def _of_unary(node: onnx_ir.Node, seen: list[onnx_ir.Node], depth: int) -> Number | None:
    number = uniform(node.inputs[0], seen, depth)
    if number is None:
        return None
    if node.op_type == "Not":
        return not number
    if node.op_type == "Neg":
        return -number
    target = onnx_ir.DataType(attribute_int(node, "to", 0))
    if target == onnx_ir.DataType.BOOL:
        return bool(number)
    exact = number in (0, 1) and (target.is_floating_point() or target.is_integer())
    return float(number) if exact else None


def _of_numbers(node: onnx_ir.Node, seen: list[onnx_ir.Node], depth: int) -> Number | None:
    compute = _COMPUTED.get(node.op_type)
    if compute is None or len(node.inputs) != 2:
        return None
    one, other = (uniform(value, seen, depth) for value in node.inputs)
    return None if one is None or other is None else compute(one, other)
