"""MatMul, Gemm and Einsum."""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir

from whet.backends.layouts import PLAIN
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.epilogue import Ending, find_ending
from whet.backends.tvm.kernels.product import batched
from whet.backends.tvm.kernels.writing import best_tiling, up
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.operators.arithmetic import broadcast
from whet.backends.tvm.operators.dense import multiplied
from whet.backends.tvm.operators.elementwise import converted
from whet.backends.tvm.operators.integer import dynamic_multiplied, integer_multiplied
from whet.backends.tvm.registry import Decline, emits
from whet.ir.array import Array
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_dense", "emit_matmul"]


@emits("MatMul")
def emit_matmul(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply rows with a constant matrix, or two operands."""
    matrix = low.known(node.inputs[1])
    if low.dtype(node.outputs[0]) != "float32":
        _plain_matmul(low, node)
    elif integer_multiplied(low, node):
        return
    elif matrix is not None and matrix.ndim == 2 and len(low.shape(node.inputs[0])) > 1:
        emit_dense(low, node, low.tensor(node.inputs[0]), low.shape(node.inputs[0]), matrix, None)
    else:
        _batched(low, node)


def emit_dense(
    low: Lowering,
    node: onnx_ir.Node,
    x: Expr,
    shape: tuple[int, ...],
    matrix: Array,
    bias: Array | None,
) -> None:
    """Multiply the rows of ``x`` with a constant matrix ``[inputs, outputs]``, and do what follows."""
    outputs = matrix.shape[1]
    result, ending = find_ending(low, node, PLAIN, up(outputs, low.machine.lanes), bias)
    low.define(result, multiplied(low, x, shape, matrix, ending))


def _batched(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply two operands, in batches."""
    left, right = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result = low.shape(node.outputs[0])
    a = left if len(left) > 1 else (1, *left)
    b = right if len(right) > 1 else (*right, 1)
    (m, k), n = a[-2:], b[-1]
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    starts = tuple(_starts(shape[:-2], batch, math.prod(shape[-2:])) for shape in (a, b))
    tiling = best_tiling(m, n, low.machine)
    vector = len(left) == 1 or len(right) == 1
    value, ending = node.outputs[0], Ending()
    if not vector:
        value, ending = find_ending(low, node, PLAIN, tiling.panels * tiling.width)
    arguments = [(left, "float32"), (right, "float32"), *ending.arguments(), (result, ending.dtype)]
    key = ("batched", left, right, tiling, ending)
    made = low.call(
        key,
        lambda: batched(
            math.prod(batch),
            (m, k, n),
            ((k, 1), (n, 1)),
            (starts[0], starts[1]),
            arguments,
            tiling,
            ending,
        ),
        [low.tensor(node.inputs[0]), low.tensor(node.inputs[1]), *ending.tensors],
        result,
        ending.dtype,
    )
    low.define(value, made)


def _starts(own: tuple[int, ...], batch: tuple[int, ...], size: int) -> Callable[[Expr], Expr]:
    """Return what maps the number of a product to where an operand's matrix begins."""
    padded = (1,) * (len(batch) - len(own)) + own
    if math.prod(padded) == 1:
        return lambda number: 0
    if padded == batch:
        return lambda number: number * size

    def start(number: Expr) -> Expr:
        found: Expr = 0
        stride = size
        for axis in reversed(range(len(batch))):
            behind = math.prod(batch[axis + 1 :])
            if padded[axis] > 1:
                found = found + tirx.floormod(tirx.floordiv(number, behind), batch[axis]) * stride
                stride *= padded[axis]
        return found

    return start


def _plain_matmul(low: Lowering, node: onnx_ir.Node) -> None:
    dtype = low.dtype(node.outputs[0])
    left, right = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result = low.shape(node.outputs[0])

    def multiplied(a: Expr, b: Expr) -> Expr:
        return _sum_of_products(a, b, left, right, result, dtype)

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(multiplied, *tensors, name="matmul"))


def _sum_of_products(
    a: Expr,
    b: Expr,
    left: tuple[int, ...],
    right: tuple[int, ...],
    result: tuple[int, ...],
    dtype: str,
) -> Expr:
    k = te.reduce_axis((0, left[-1]), "k")
    wide = "float32" if dtype == "float16" else dtype

    def one(*i: Expr) -> Expr:
        row = i[-1 if len(right) == 1 else -2] if len(left) > 1 else None
        lead = i[: len(i) - (len(left) > 1) - (len(right) > 1)]
        x = broadcast(a, (*lead, row, k) if row is not None else (k,))
        y = broadcast(b, (*lead, k, i[-1]) if len(right) > 1 else (k,))
        return te.sum(converted(x, wide) * converted(y, wide), axis=k)

    found = te.compute(result, one, name="matmul")
    if wide == dtype:
        return found
    return te.compute(result, lambda *i: converted(found(*i), dtype), name="rounded")


@emits("Gemm")
def emit_gemm(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply, scale and add: alpha A B + beta C."""
    alpha, beta = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    across = attribute_int(node, "transA", 0) != 0, attribute_int(node, "transB", 0) != 0
    added = node.inputs[2] if len(node.inputs) > 2 else None
    matrix, bias = low.known(node.inputs[1]), low.known(added)
    outputs = low.shape(node.outputs[0])[1]
    rowlike = added is None or (
        bias is not None and bias.size in (1, outputs) and bias.shape[-1:] in ((1,), (outputs,), ())
    )
    single = low.dtype(node.outputs[0]) == "float32"
    if not single or matrix is None or across[0] or not rowlike:
        _plain_gemm(low, node, across, alpha, beta)
        return
    row = None
    if bias is not None:
        row = np.broadcast_to(np.multiply(beta, bias, dtype=np.float32).reshape(-1), (outputs,))
    if alpha == 1 and integer_multiplied(low, node, turned=across[1], bias=row):
        return
    scaled = np.multiply(alpha, matrix.T if across[1] else matrix, dtype=np.float32)
    emit_dense(low, node, low.tensor(node.inputs[0]), low.shape(node.inputs[0]), scaled, row)


def _plain_gemm(
    low: Lowering, node: onnx_ir.Node, across: tuple[bool, bool], alpha: float, beta: float
) -> None:
    dtype = low.dtype(node.outputs[0])
    result = low.shape(node.outputs[0])
    depth = low.shape(node.inputs[0])[0 if across[0] else 1]

    def whole(a: Expr, b: Expr, *c: Expr) -> Expr:
        k = te.reduce_axis((0, depth), "k")

        def one(i: Expr, j: Expr) -> Expr:
            return te.sum(
                (a(k, i) if across[0] else a(i, k)) * (b(j, k) if across[1] else b(k, j)), axis=k
            )

        product = te.compute(result, one, name="gemm")

        def end(i: Expr, j: Expr) -> Expr:
            value = product(i, j) * tirx.const(alpha, dtype)
            return value + tirx.const(beta, dtype) * broadcast(c[0], (i, j)) if c else value

        return te.compute(result, end, name="end")

    tensors = [low.tensor(v) for v in node.inputs if v is not None]
    low.define(node.outputs[0], low.te(whole, *tensors, name="gemm"))


@emits("MatMulInteger", note="one zero point for each operand")
def emit_integer(low: Lowering, node: onnx_ir.Node) -> None:
    """Multiply integers of 8 bits; sums have 32."""
    zeros = [node.inputs[k] if len(node.inputs) > k else None for k in (2, 3)]
    if any(z is not None and math.prod(low.shape(z)) > 1 for z in zeros):
        raise Decline("a zero point for each row or column is not supported")
    if dynamic_multiplied(low, node):
        return
    left, right = low.shape(node.inputs[0]), low.shape(node.inputs[1])
    result = low.shape(node.outputs[0])
    there = [z is not None for z in zeros]

    def multiplied(a: Expr, b: Expr, *z: Expr) -> Expr:
        given = iter(z)
        both: list[Expr] = []
        for x, has in zip((a, b), there, strict=True):
            zero = next(given) if has else None
            both.append(te.compute(x.shape, _shifted(x, zero), name="shift"))
        return _sum_of_products(both[0], both[1], left, right, result, "int32")

    tensors = [low.tensor(v) for v in (*node.inputs[:2], *zeros) if v is not None]
    low.define(node.outputs[0], low.te(multiplied, *tensors, name="matmul_integer"))


def _shifted(x: Expr, zero: Expr) -> Callable[..., Expr]:
    def one(*i: Expr) -> Expr:
        value = tirx.Cast("int32", x(*i))
        if zero is None:
            return value
        return value - tirx.Cast("int32", zero(*([0] * len(zero.shape))))

    return one


@emits("Einsum", note="letters without repetition in one operand")
def emit_einsum(low: Lowering, node: onnx_ir.Node) -> None:
    """Sum up products over the letters that the result lacks."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    if "..." in equation or "->" not in equation:
        raise Decline(f"equation '{equation}': spell all axes and the result")
    sides = equation.split("->")
    terms = sides[0].split(",")
    if any(len(set(t)) < len(t) for t in terms):
        raise Decline(f"equation '{equation}' repeats a letter in one operand")
    sizes = {
        c: d
        for t, v in zip(terms, node.inputs, strict=True)
        for c, d in zip(t, low.shape(v), strict=True)
    }
    inner = [c for c in sizes if c not in sides[1]]

    def summed(*xs: Expr) -> Expr:
        axes = {c: te.reduce_axis((0, sizes[c]), c) for c in inner}

        def one(*i: Expr) -> Expr:
            at = {**dict(zip(sides[1], i, strict=True)), **axes}
            found: Expr = None
            for x, term in zip(xs, terms, strict=True):
                value = x(*(at[c] for c in term))
                found = value if found is None else found * value
            return te.sum(found, axis=list(axes.values())) if axes else found

        return te.compute([sizes[c] for c in sides[1]], one, name="einsum")

    tensors = [low.tensor(v) for v in node.inputs]
    low.define(node.outputs[0], low.te(summed, *tensors, name="einsum"))
