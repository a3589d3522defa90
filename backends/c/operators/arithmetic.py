"""Operators of two or more operands that are broadcast: arithmetic, comparisons, logic, Where."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.backends.c.broadcasting import laid_out, make_nest, one_layout
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import Operand, sink
from whet.backends.c.program import Grid, Tensor
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type
from whet.backends.layouts import LAST, Layout
from whet.ir.values import attribute_int

__all__ = ["emit_arithmetic", "emit_fold", "emit_logic", "emit_where"]

_FLOAT = {
    "Add": "{0} + {1}", "Sub": "{0} - {1}", "Mul": "{0} * {1}", "Div": "{0} / {1}",
    "Pow": "powf({0}, {1})", "PRelu": "{0} < 0.0f ? {0} * {1} : {0}",
}  # fmt: skip
_INTEGER = {
    "Add": "{0} + {1}", "Sub": "{0} - {1}", "Mul": "{0} * {1}",
    "BitwiseAnd": "{0} & {1}", "BitwiseOr": "{0} | {1}", "BitwiseXor": "{0} ^ {1}",
}  # fmt: skip
_COMPARE = {
    "Equal": "==", "Less": "<", "Greater": ">", "LessOrEqual": "<=", "GreaterOrEqual": ">=",
    "And": "&", "Or": "|", "Xor": "^",
}  # fmt: skip


@emits(
    "Add", "Sub", "Mul", "Div", "Pow", "PRelu", note="float32 or on grids; +, - and * of integers"
)
def emit_arithmetic(low: Lowering, node: onnx_ir.Node) -> None:
    """Combine two operands element by element."""
    if low.dtype(node.outputs[0]).kind in "iu":
        _integers(low, node, _INTEGER)
        return
    spelled = _FLOAT[node.op_type]
    if node.op_type == "Pow":
        spelled = _power(low, node) or spelled
    _reals(low, node, spelled)


def _power(low: Lowering, node: onnx_ir.Node) -> str | None:
    """Return a product for small fixed exponents."""
    known = low.known(node.inputs[1])
    if known is None or known.size != 1:
        return None
    exponent = float(known.reshape(-1)[0])
    known_ones = {
        1.0: "{0}",
        2.0: "{0} * {0}",
        3.0: "{0} * {0} * {0}",
        0.5: "sqrtf({0})",
        -1.0: "1.0f / {0}",
    }
    return known_ones.get(exponent)


@emits("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def emit_bits(low: Lowering, node: onnx_ir.Node) -> None:
    """Combine the bits of integers."""
    _integers(low, node, _INTEGER)


def _reals(low: Lowering, node: onnx_ir.Node, spelled: str) -> None:
    operands, layout, rank = _operands(low, node, node.inputs)
    y = sink(low, node, layout)
    used = [x for k, x in enumerate(operands) if f"{{{k}}}" in spelled]
    nest = make_nest([_padded(x.tensor.shape, rank) for x in used], y.tensor.shape)
    names = [f"{x.name}_" for x in used]
    reads = [f"const float {n} = {x.at(i)};" for n, x, i in zip(names, used, nest.at, strict=False)]
    filled = [f"{x.name}_" for x in operands]
    body = "\n".join(
        [
            nest.opening,
            *reads,
            f"float v = {spelled.format(*filled)};",
            y.lines(nest.at[-1]),
            nest.closing,
        ]
    )
    parameters = [p for x in used for p in x.parameters]
    in_place = _in_place(used, nest.at)
    low.call(node.op_type.lower(), [*parameters, *y.parameters], body, in_place=in_place)
    y.finish()


def _operands(
    low: Lowering, node: onnx_ir.Node, values: Sequence[onnx_ir.Value | None]
) -> tuple[list[Operand], Layout, int]:
    rank = len(low.shape(node.outputs[0]))
    layout = one_layout(low, values, rank)
    found: list[Operand] = []
    for name, value in zip("abcdefgh", values, strict=False):
        tensor = laid_out(low, value, layout, rank)
        grid = low.form(value).grid
        if grid is None and tensor.dtype.kind != "f":
            tensor = _as_float(low, tensor, value)
        found.append(Operand(name, tensor, grid))
    return found, layout, rank


def _as_float(low: Lowering, tensor: Tensor, value: onnx_ir.Value | None) -> Tensor:
    """Return integer exponents and the like as floats, where they are constant."""
    if tensor.array is None:
        name = "" if value is None else value.name
        raise Decline(f"operand '{name}' is {tensor.dtype}, only float32 is supported")
    return low.constant(tensor.array.astype(np.float32), tensor.buffer.name)


def _padded(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _in_place(operands: Sequence[Operand], at: Sequence[str]) -> list[Tensor]:
    return [x.tensor for x, index in zip(operands, at, strict=False) if index == at[-1]]


def _integers(low: Lowering, node: onnx_ir.Node, spelling: dict[str, str]) -> None:
    kind = low.dtype(node.outputs[0])
    spelled = spelling.get(node.op_type)
    if spelled is None:
        raise Decline(f"{kind} elements, only float32 is supported")
    _typed(low, node, node.inputs, spelled, kind)


@emits(*_COMPARE, "Not", note="float32, integers, truth values")
def emit_logic(low: Lowering, node: onnx_ir.Node) -> None:
    """Compare two operands, or combine truth values."""
    spelled = f"{{0}} {_COMPARE[node.op_type]} {{1}}" if node.op_type in _COMPARE else "!{0}"
    _typed(low, node, node.inputs, spelled, np.dtype(np.bool_))


@emits("Where", note="float32, integers; on a grid where both sides share it")
def emit_where(low: Lowering, node: onnx_ir.Node) -> None:
    """Choose element by element."""
    forms = [low.form(v) for v in node.inputs[1:]]
    grids = [form.grid for form in forms]
    if grids[0] is None and grids[1] is None and low.dtype(node.outputs[0]).kind in "iub":
        _typed(low, node, node.inputs, "{0} ? {1} : {2}", low.dtype(node.outputs[0]))
        return
    rank = len(low.shape(node.outputs[0]))
    layout = one_layout(low, node.inputs, rank)
    condition = laid_out(low, node.inputs[0], layout, rank)
    sides = [
        Operand(name, laid_out(low, value, layout, rank), grid)
        for name, value, grid in zip("ab", node.inputs[1:], grids, strict=True)
    ]
    y = sink(low, node, layout)
    shapes = [_padded(t.shape, rank) for t in (condition, *(s.tensor for s in sides))]
    nest = make_nest(shapes, y.tensor.shape)
    a, b = (side.at(index) for side, index in zip(sides, nest.at[1:], strict=False))
    body = "\n".join(
        [
            nest.opening,
            f"float v = c[{nest.at[0]}] ? {a} : {b};",
            y.lines(nest.at[-1]),
            nest.closing,
        ]
    )
    parameters = [pointer("c", condition), *(p for side in sides for p in side.parameters)]
    in_place = _in_place(sides, (*nest.at[1:3], nest.at[-1]))
    low.call("where", [*parameters, *y.parameters], body, in_place=in_place)
    y.finish()


def _typed(
    low: Lowering,
    node: onnx_ir.Node,
    values: Sequence[onnx_ir.Value | None],
    spelled: str,
    kind: np.dtype[np.generic],
) -> None:
    """Combine operands as they are, without grids."""
    shape = low.shape(node.outputs[0])
    layout = one_layout(low, values, len(shape))
    grids: list[Grid | None] = [low.form(v).grid for v in values]
    tensors = [laid_out(low, v, layout, len(shape)) for v in values]
    target = tuple(shape)
    if layout == LAST:
        target = (shape[0], *shape[2:], shape[1])
    result = low.make(target, kind)
    nest = make_nest([_padded(t.shape, len(shape)) for t in tensors], target)
    operands = [Operand(n, t, g) for n, t, g in zip("abc", tensors, grids, strict=False)]
    reads = [x.at(index) for x, index in zip(operands, nest.at, strict=False)]
    text = spelled.format(*reads)
    body = f"{nest.opening}\ny[{nest.at[-1]}] = ({c_type(kind)})({text});\n{nest.closing}"
    parameters = [p for x in operands for p in x.parameters]
    in_place = _in_place(operands, nest.at)
    low.call(
        node.op_type.lower(),
        [*parameters, pointer("y", result, written=True)],
        body,
        in_place=in_place,
    )
    low.define(node.outputs[0], result, layout)


@emits("Sum", "Max", "Min", "Mean", note="float32 or on grids")
def emit_fold(low: Lowering, node: onnx_ir.Node) -> None:
    """Combine any number of operands."""
    count = len(node.inputs)
    if low.dtype(node.outputs[0]).kind != "f" or count > 8:
        raise Decline(
            f"{count} operands of {low.dtype(node.outputs[0])}; up to 8 of float32 are supported"
        )
    names = [f"{{{k}}}" for k in range(count)]
    if node.op_type in {"Sum", "Mean"}:
        total = " + ".join(names)
        _reals(low, node, total if node.op_type == "Sum" else f"({total}) / {count}.0f")
        return
    sign = ">" if node.op_type == "Max" else "<"
    text = names[0]
    for name in names[1:]:
        text = (
            f"({name} {sign} ({text}) ? {name} : ({text}))"
            if count <= 3
            else f"f{node.op_type.lower()}f({text}, {name})"
        )
    _reals(low, node, text)


@emits("Mod", note="integers and constants of integers only")
def emit_mod(low: Lowering, node: onnx_ir.Node) -> None:
    """Return the remainder with the sign of the divisor."""
    if low.dtype(node.outputs[0]).kind not in "iu" or attribute_int(node, "fmod", 0):
        raise Decline("Mod of floats is not supported")
    kind = low.dtype(node.outputs[0])
    text = "{0} % {1}" if kind.kind == "u" else "({0} % {1} + {1}) % {1}"
    _typed(low, node, node.inputs, text, kind)
