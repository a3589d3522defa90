"""Operators of two or more operands that are repeated to a common shape."""

import functools
from collections.abc import Callable, Mapping, Sequence

import onnx_ir

from whet.backends.layouts import LAST, Layout, to_last
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.operators.elementwise import converted
from whet.backends.tvm.registry import Decline, emits
from whet.ir.values import attribute_int, attribute_string

__all__ = ["BINARY", "broadcast", "combined"]


def _divide(a: Expr, b: Expr) -> Expr:
    return a / b if "float" in str(a.ty) else tirx.truncdiv(a, b)


def _power(a: Expr, b: Expr) -> Expr:
    if isinstance(b, tirx.FloatImm) and b.value in (2.0, 0.5):
        return a * a if b.value == 2.0 else tirx.sqrt(a)
    if "float" in str(a.ty):
        return tirx.power(a, converted(b, str(a.ty)))
    found = tirx.power(converted(a, "float64"), converted(b, "float64"))
    return tirx.Cast(str(a.ty), found)


def _number(x: Expr) -> Expr:
    """Return truth values as integers: LLVM compares those only."""
    return tirx.Cast("int8", x) if str(x.ty) == "bool" else x


def _remainder(a: Expr, b: Expr) -> Expr:
    return a - tirx.trunc(a / b) * b


BINARY: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "PRelu": lambda a, b: tirx.Select(a < tirx.const(0, str(a.ty)), a * b, a),
    "Max": tirx.max,
    "Min": tirx.min,
}
"""Operators of numbers that may end a kernel."""
_OTHERS: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "Sum": lambda a, b: a + b,
    "Mean": lambda a, b: a + b,
    "And": tirx.all,
    "Or": tirx.any,
    "Xor": lambda a, b: _number(a) != _number(b),
    "Equal": lambda a, b: _number(a) == _number(b),
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "BitwiseAnd": lambda a, b: a & b,
    "BitwiseOr": lambda a, b: a | b,
    "BitwiseXor": lambda a, b: a ^ b,
}


def broadcast(x: Expr, indices: Sequence[Expr]) -> Expr:
    """Return the element of an operand that meets the indices of the result."""
    own = indices[len(indices) - len(x.shape) :]
    return x(*(0 if int(d) == 1 else i for d, i in zip(x.shape, own, strict=True)))


def combined(
    low: Lowering, node: onnx_ir.Node, function: Callable[..., Expr], name: str = ""
) -> None:
    """Compute each element of the result from those of all operands."""
    shape = low.shape(node.outputs[0])
    operands = [v for v in node.inputs if v is not None]
    full = [v for v in operands if len(low.shape(v)) == len(shape)]
    layout = low.layout(*full)
    tensors = [_operand(low, v, len(shape), layout) for v in operands]
    result = tuple(shape[a] for a in to_last(len(shape))) if layout == LAST else shape

    def whole(*xs: Expr) -> Expr:
        return te.compute(result, lambda *i: function(*(broadcast(x, i) for x in xs)), name="map")

    name = name or node.op_type.lower()
    low.define(node.outputs[0], low.te(whole, *tensors, name=name), layout)


def _operand(low: Lowering, value: onnx_ir.Value, rank: int, layout: Layout) -> Expr:
    """Return an operand whose axes, from the last one, meet those of the result in a layout."""
    shape = low.shape(value)
    if layout != LAST or len(shape) <= 1:
        if layout == LAST and len(shape) == 1 and rank > 2 and shape != (1,):
            return low.reshaped(low.tensor(value), (1,) * (rank - 3) + (*shape, 1))
        return low.tensor(value)
    if len(shape) == rank:
        return low.tensor(value, LAST)
    padded = (1,) * (rank - len(shape)) + shape
    known = low.known(value)
    if known is not None:
        return low.constant(known.reshape(padded).transpose(to_last(rank)))
    from whet.backends.tvm.operators.movement import transposed

    plain = low.reshaped(low.tensor(value), padded)
    return low.te(transposed(to_last(rank)), plain, name="transpose")


@emits(*BINARY, *_OTHERS)
def emit_binary(low: Lowering, node: onnx_ir.Node) -> None:
    """Combine two or more operands."""
    kind = node.op_type
    function = BINARY.get(kind) or _OTHERS[kind]
    count = len(node.inputs)
    dtype = low.dtype(node.outputs[0])

    def several(*xs: Expr) -> Expr:
        found = functools.reduce(function, xs)
        return found / tirx.const(count, dtype) if kind == "Mean" else found

    exponent = low.known(node.inputs[1]) if kind == "Pow" else None
    if (
        exponent is not None
        and exponent.size == 1
        and exponent.item() in (2, 0.5)
        and dtype == "float32"
    ):
        number = tirx.FloatImm("float32", float(exponent.item()))
        shape, own = low.shape(node.outputs[0]), low.shape(node.inputs[0])
        if shape == own:
            layout = low.layout(node.inputs[0])
            x = low.tensor(node.inputs[0], layout)
            made = low.te(
                lambda x: te.compute(x.shape, lambda *i: _power(x(*i), number), name="pow"),
                x,
                name="pow",
            )
            low.define(node.outputs[0], made, layout)
            return
    combined(low, node, several)


@emits("Not", "BitwiseNot")
def emit_not(low: Lowering, node: onnx_ir.Node) -> None:
    """Turn truth values, or bits, over."""
    turned = tirx.bitwise_not if node.op_type == "BitwiseNot" else lambda x: tirx.Not(x)
    combined(low, node, turned)


@emits("Mod")
def emit_mod(low: Lowering, node: onnx_ir.Node) -> None:
    """Return the remainder: of the sign of the divisor, or of the dividend with ``fmod``."""
    if attribute_int(node, "fmod", 0):
        number = "float" in low.dtype(node.outputs[0])
        combined(low, node, _remainder if number else tirx.truncmod)
        return
    if "float" in low.dtype(node.outputs[0]):
        raise Decline("floats need fmod=1")
    combined(low, node, tirx.floormod)


@emits("BitShift")
def emit_shift(low: Lowering, node: onnx_ir.Node) -> None:
    """Move bits."""
    left = attribute_string(node, "direction", "LEFT") == "LEFT"
    combined(low, node, tirx.shift_left if left else tirx.shift_right)


@emits("Where")
def emit_where(low: Lowering, node: onnx_ir.Node) -> None:
    """Choose between two operands."""
    combined(low, node, tirx.Select)
