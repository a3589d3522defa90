"""The router: from the product that makes its logits to the experts that are chosen."""

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    attribute_int,
    constant_ints,
    dimensions,
    is_constant,
    is_op,
    static_shape,
)

__all__ = ["find_logits", "route", "weight_axis"]

_UNARY = ("Cast", "Identity", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Exp", "Tanh", "LogSoftmax")
_BINARY = ("Add", "Sub", "Mul", "Div")
_PRODUCTS = ("MatMul", "Gemm")
_SUMS = ("ReduceSum", "ReduceMax")


def find_logits(scores: onnx_ir.Value) -> onnx_ir.Value:
    """Return the logits that become ``scores``: the nearest product with a fixed weight, its bias added.

    Raises Mismatch where something else lies between.
    """
    value = scores
    while True:
        node = value.producer()
        if node is None:
            raise Mismatch(f"the router's scores '{value.name}' are made outside of the graph")
        if is_op(node, *_PRODUCTS):
            return value if is_constant(node.inputs[1]) else _unmade(node)
        if is_op(node, "Add") and _follows_product(node):
            return value
        value = _before(node)


def _unmade(node: onnx_ir.Node) -> onnx_ir.Value:
    raise Mismatch(f"{node.op_type} '{node.name}' multiplies the router with what is no constant")


def _follows_product(node: onnx_ir.Node) -> bool:
    """Tell whether an addition puts a bias on a product."""
    makers = [v.producer() for v in node.inputs if v is not None and not is_constant(v)]
    return len(makers) == 1 and is_op(makers[0], *_PRODUCTS)


def _before(node: onnx_ir.Node) -> onnx_ir.Value:
    """Return the operand that carries the scores."""
    computed = [v for v in node.inputs if v is not None and not is_constant(v)]
    if is_op(node, *_UNARY, *_BINARY, "Reshape") and len(computed) == 1:
        return computed[0]
    raise Mismatch(f"{node.op_type} '{node.name}' stands between the router and what it picks")


def weight_axis(node: onnx_ir.Node, place: int, count: int) -> int | None:
    """Return the axis of a constant operand that counts experts; None where it has none."""
    value = node.inputs[place]
    shape = static_shape(value) or ()
    if is_op(node, *_PRODUCTS) and place == 1:
        turned = is_op(node, "Gemm") and attribute_int(node, "transB", 0)
        return 0 if turned else len(shape) - 1
    if is_op(node, "Reshape"):
        return None
    if shape and shape[-1] == count and count > 1:
        return len(shape) - 1
    if any(size > 1 for size in shape) and not is_op(node, "TopK", *_SUMS):
        raise Mismatch(
            f"{node.op_type} '{node.name}' reads a constant of {list(shape)}, not of {count} experts"
        )
    return None


def route(
    logits: onnx_ir.Value, top: onnx_ir.Node, count: int, picked: frozenset[onnx_ir.Value]
) -> tuple[onnx_ir.Node, ...]:
    """Return every node that works on an axis of experts, in graph order; raises Mismatch for one that is not known.

    ``picked`` are values that say which experts were chosen: scores may be looked up by them.
    """
    carries = {logits}
    maker = logits.producer()
    assert maker is not None
    found: list[onnx_ir.Node] = [*_product(maker)]
    for node in maker.graph or ():
        read = [v for v in node.inputs if v in carries]
        if not read or node in found:
            continue
        found.append(node)
        if _keeps(node, top, count, carries, picked):
            carries.update(node.outputs)
    for value in carries:
        if value.is_graph_output():
            raise Mismatch(f"the router's scores '{value.name}' are an output of the model")
    if top not in found:
        raise Mismatch(f"TopK '{top.name}' does not pick from '{logits.name}'")
    return tuple(found)


def _product(maker: onnx_ir.Node) -> list[onnx_ir.Node]:
    """Return the product, and the addition of its bias behind it."""
    if is_op(maker, *_PRODUCTS):
        return [maker]
    inner = next(v for v in maker.inputs if v is not None and not is_constant(v))
    node = inner.producer()
    assert node is not None
    if len(list(inner.consumers())) > 1 or inner.is_graph_output():
        raise Mismatch(f"the router's product '{inner.name}' is read without its bias")
    return [node, maker]


def _keeps(
    node: onnx_ir.Node,
    top: onnx_ir.Node,
    count: int,
    carries: set[onnx_ir.Value],
    picked: frozenset[onnx_ir.Value],
) -> bool:
    """Tell whether what a node makes has an axis of experts too."""
    if node is top or (is_op(node, "GatherElements") and node.inputs[1] in picked):
        return False
    if is_op(node, *_SUMS):
        return _keeps_sum(node)
    if is_op(node, "Softmax", "LogSoftmax") and not _is_last(node, attribute_int(node, "axis", -1)):
        raise Mismatch(f"{node.op_type} '{node.name}' is not over the experts")
    if is_op(node, "Reshape"):
        target = constant_ints(node.inputs[1])
        if target is None or target[-1] != count:
            raise Mismatch(f"Reshape '{node.name}' gives the router's scores another last axis")
        return True
    if is_op(node, *_UNARY):
        return True
    if not is_op(node, *_BINARY):
        raise Mismatch(f"{node.op_type} '{node.name}' reads the router's scores")
    for place, value in enumerate(node.inputs):
        if value is not None and is_constant(value):
            weight_axis(node, place, count)
        elif value not in carries and (dimensions(value) or (0,))[-1] != 1:
            raise Mismatch(
                f"{node.op_type} '{node.name}' meets the router's scores with '{value and value.name}'"
            )
    return True


def _keeps_sum(node: onnx_ir.Node) -> bool:
    axes = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or len(axes) != 1 or not _is_last(node, axes[0]):
        raise Mismatch(f"{node.op_type} '{node.name}' is not over the experts")
    return False


def _is_last(node: onnx_ir.Node, axis: int) -> bool:
    sizes = dimensions(node.inputs[0])
    return axis == -1 or (sizes is not None and axis == len(sizes) - 1)
