"""MatMul and Gemm."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.backends.c.copying import row_major, terms
from whet.backends.c.layers import Bias, emit_layer, read_bias
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import Operand, Sink, operand, sink
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import floating
from whet.backends.c.weights import Weights, read_weights
from whet.backends.c.windows import Axis, Window, loop
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_gemm", "emit_matmul"]


@emits("MatMul", note="float32 or on grids; weights of int8 stay int8")
def emit_matmul(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply rows with a constant matrix, or two operands."""
    weights = read_weights(low, node.inputs[1], -1)
    if weights is not None and weights.array.ndim == 2:
        x = operand(low, "a", node.inputs[0])
        bias, y = _added(low, node, weights.array.shape[1])
        _dense(low, x, weights, bias, y)
        return
    shapes = [low.shape(_input(node, k)) for k in (0, 1)]
    left = shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0])
    right = shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)
    y = sink(low, node)
    _general(low, node, (left, right), (False, False), 1.0, None, y)


def _added(low: Lowering, node: onnx_ir.Node, width: int) -> tuple[Bias | None, Sink]:
    """Return the constant that is added behind a product, which is its bias, and where the result goes."""
    reader = low.sole_reader(node.outputs[0])
    if reader is None or reader.op_type != "Add" or reader.domain not in {"", "ai.onnx"}:
        return None, sink(low, node)
    other = next((v for v in reader.inputs if v is not node.outputs[0]), None)
    known = low.known(other)
    if known is None or known.size != width or known.shape[-1] != width:
        return None, sink(low, node)
    low.done.add(reader)
    return read_bias(low, other, width), sink(low, reader)


def _dense(low: Lowering, x: Operand, weights: Weights, bias: Bias | None, y: Sink) -> None:
    """Emit a product with a constant matrix ``[inputs, outputs]``."""
    inputs, outputs = weights.array.shape
    rows = x.tensor.size // inputs
    x = Operand("x", x.tensor.reshaped((rows, inputs)), x.grid)
    one = Axis(1, 1, 1, 1, 1, 0)
    window = Window(1, one, Axis(rows, rows, 1, 1, 1, 0), inputs)
    array = np.ascontiguousarray(weights.array.T).reshape(outputs, inputs, 1, 1)
    emit_layer(low, "dense", x, window, 1, Weights(array, weights.scale), bias, y)


@emits("Gemm", note="float32 or on grids; weights of int8 stay int8")
def emit_gemm(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply, scale and add: alpha A B + beta C."""
    alpha, beta = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    across = attribute_int(node, "transA", 0) != 0, attribute_int(node, "transB", 0) != 0
    added = node.inputs[2] if len(node.inputs) > 2 else None
    weights = read_weights(low, node.inputs[1], 0 if across[1] else 1)
    result = low.shape(node.outputs[0])
    row = added is None or (low.known(added) is not None and low.shape(added)[-1:] == result[-1:])
    one_row = added is None or math.prod(low.shape(added)[:-1]) == 1
    if weights is None or across[0] or alpha != 1 or beta != 1 or not row or not one_row:
        if added is not None and low.form(added).grid is not None:
            raise Decline("a bias on a grid must be constant")
        shapes = (low.shape(_input(node, 0)), low.shape(_input(node, 1)))
        more = None if added is None else (added, beta)
        _general(low, node, shapes, across, alpha, more, sink(low, node))
        return
    bias = read_bias(low, added, result[-1])
    array = weights.array.T if across[1] else weights.array
    x = operand(low, "a", node.inputs[0])
    _dense(low, x, Weights(array, weights.scale), bias, sink(low, node))


def _general(
    low: Lowering,
    node: onnx_ir.Node,
    shapes: tuple[Sequence[int], Sequence[int]],
    across: tuple[bool, bool],
    alpha: float,
    added: tuple[onnx_ir.Value, float] | None,
    y: Sink,
) -> None:
    """Multiply two operands, in batches: rows of the result are summed up from rows of the second operand."""
    a, b = operand(low, "a", node.inputs[0]), operand(low, "b", node.inputs[1])
    (m, k), n = shapes[0][-2:], shapes[1][-1]
    if across[0]:
        m, k = k, m
    if across[1]:
        n = shapes[1][-2]
    batch = np.broadcast_shapes(tuple(shapes[0][:-2]), tuple(shapes[1][:-2]))
    names = [f"i{axis}" for axis in range(len(batch))]
    a_at, b_at = (terms(_strides(shape, batch), names) for shape in shapes)
    a_strides = (1, m) if across[0] else (k, 1)
    b_strides = (1, k) if across[1] else (n, 1)
    y_at = terms([math.prod((*batch[axis + 1 :], m, n)) for axis in range(len(batch))], names)
    integers = a.grid is not None and b.grid is not None and _small(a, b, k)
    kind = "int32_t" if integers else "float"
    parameters = [*a.parameters, *b.parameters]
    a_index = _sum(a_at, terms(a_strides, ["i", "k"]))
    b_index = _sum(b_at, terms(b_strides, ["k", "(j + h)"]))
    left = a.codes(a_index) if integers else a.at(a_index)
    right = b.codes(b_index) if integers else b.at(b_index)
    value = "(float)s[h] * a_scale * b_scale" if integers else "s[h]"
    if alpha != 1:
        value = f"{floating(alpha)} * ({value})"
    if added is not None:
        c = operand(low, "c", added[0])
        parameters += c.parameters
        shape = (1,) * (2 - len(c.tensor.shape)) + c.tensor.shape
        strides = [0 if size == 1 else s for size, s in zip(shape, row_major(shape), strict=True)]
        value += f" + {floating(added[1])} * {c.at(terms(strides, ['i', '(j + h)']))}"
    block = next(size for size in range(min(n, 16), 0, -1) if n % size == 0)
    opening = "\n".join(loop(name, size) for name, size in zip(names, batch, strict=True))
    closing = "\n".join("}" for _ in batch)
    body = f"""
    {opening}
    {loop("i", m)}
    for (int j = 0; j < {n}; j += {block}) {{
    {kind} s[{block}] = {{0}};
    for (int k = 0; k < {k}; ++k) {{
    const {"int" if integers else "float"} f = {left};
    for (int h = 0; h < {block}; ++h) {{
    s[h] += f * ({right});
    }}
    }}
    for (int h = 0; h < {block}; ++h) {{
    float v = {value};
    {y.lines(_sum(y_at, f"i * {n} + j + h"))}
    }}
    }}
    }}
    {closing}
    """
    low.call("matmul", [*parameters, *y.parameters], body)
    y.finish()


def _sum(*parts: str) -> str:
    return " + ".join(part for part in parts if part != "0") or "0"


def _small(a: Operand, b: Operand, depth: int) -> bool:
    """Tell whether no sum of products can leave 32 bits."""
    assert a.grid is not None
    assert b.grid is not None
    largest = [max(g.zero - g.limits[0], g.limits[1] - g.zero) for g in (a.grid, b.grid)]
    return largest[0] * largest[1] * depth < 2**31


def _strides(shape: Sequence[int], batch: Sequence[int]) -> list[int]:
    """Return the stride of an operand along each axis of the batch; 0 where it is repeated."""
    own = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape)
    return [0 if own[axis] == 1 else math.prod(own[axis + 1 :]) for axis in range(len(batch))]


def _input(node: onnx_ir.Node, number: int) -> onnx_ir.Value:
    value = node.inputs[number]
    assert value is not None
    return value
