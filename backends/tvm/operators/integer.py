"""Products and convolutions between Q and DQ, in integers: tried by the emitters of the float ones."""

import math

import numpy as np
import onnx_ir

from whet.backends.layouts import LAST, PLAIN
from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.epilogue import find_ending
from whet.backends.tvm.kernels.convolution import Window, window_tiling
from whet.backends.tvm.kernels.integer_convolution import integer_convolution
from whet.backends.tvm.kernels.integer_dot import GROUP, Dot, find_dot, flipped, groups
from whet.backends.tvm.kernels.integer_product import Decoding, integer_dense, pack_groups
from whet.backends.tvm.kernels.writing import Tiling, best_tiling
from whet.backends.tvm.lowering import Lowering
from whet.backends.tvm.quantized import Codes, Grid, codes_of, source_of
from whet.ir.array import Array

__all__ = ["dynamic_multiplied", "integer_convolved", "integer_multiplied", "whole_groups"]


def integer_multiplied(
    low: Lowering,
    node: onnx_ir.Node,
    *,
    turned: bool = False,
    bias: Array | None = None,
) -> bool:
    """Multiply codes with a constant matrix of codes, ``[outputs, inputs]`` if ``turned``; tell whether that can be."""
    dot = find_dot(low.machine)
    source, codes = source_of(low, node.inputs[0]), codes_of(low, node.inputs[1])
    shape = low.shape(node.inputs[0])
    if dot is None or source is None or codes is None or codes.values.ndim != 2 or len(shape) < 2:
        return False
    if codes.scales.size > 1 and codes.axis != (0 if turned else 1):
        return False
    matrix = codes.values.T if turned else codes.values
    value, grid = source
    x = whole_groups(low, low.tensor(value), shape, grid.dtype, dot)
    result = low.shape(node.outputs[0])
    tiling = best_tiling(math.prod(shape[:-1]), result[-1], low.machine)
    padded = tiling.panels * tiling.width
    found, ending = find_ending(low, node, PLAIN, padded, bias)
    tensors, decoded = _decoded(low, matrix.sum(0, dtype=np.int32), codes, grid, dot, padded)
    given = (*shape[:-1], groups(shape[-1]) * GROUP)
    made = low.call(
        ("integer_dense", given, result, tiling, ending, dot),
        lambda: integer_dense((given, result), tiling, dot, decoded, ending, low.machine.threads),
        [x, low.constant(pack_groups(matrix, tiling)), *tensors, *ending.tensors],
        result,
        ending.dtype,
    )
    low.define(found, made)
    return True


def dynamic_multiplied(low: Lowering, node: onnx_ir.Node) -> bool:
    """Multiply codes whose zero point is found while the model runs with constant codes; tell whether that can be."""
    dot, matrix = find_dot(low.machine), low.known(node.inputs[1])
    zeros = [node.inputs[k] if len(node.inputs) > k else None for k in (2, 3)]
    shape = low.shape(node.inputs[0])
    if dot is None or matrix is None or matrix.ndim != 2 or len(shape) < 2:
        return False
    shift = 128 if matrix.dtype == np.uint8 else 0
    own = low.known(zeros[1]) if zeros[1] is not None else np.zeros(1)
    if own is None or np.any(own.astype(np.int32) != shift):
        return False
    codes = (matrix.astype(np.int32) - shift).astype(np.int8)
    kind = low.dtype(node.inputs[0])
    x = whole_groups(low, low.tensor(node.inputs[0]), shape, kind, dot)
    result = low.shape(node.outputs[0])
    tiling = best_tiling(math.prod(shape[:-1]), result[-1], low.machine)
    padded = tiling.panels * tiling.width
    found, ending = find_ending(low, node, PLAIN, padded)
    moved = 0 if kind == dot.dtype else dot.shift
    totals = np.zeros(padded, np.int32)
    totals[: result[-1]] = codes.sum(0, dtype=np.int32)
    tensors = [low.constant(totals)]
    operands: tuple[tuple[tuple[int, ...], str], ...] = (((padded,), "int32"),)
    if zeros[0] is not None:
        tensors.append(low.reshaped(low.tensor(zeros[0]), (1,)))
        operands = (*operands, ((1,), kind))

    def decode(total: Expr, output: Expr, given: list[Expr]) -> Expr:
        zero: Expr = tirx.Cast("int32", given[1][0]) + moved if len(given) > 1 else moved
        return total - zero * given[0][output]

    given = (*shape[:-1], groups(shape[-1]) * GROUP)
    made = low.call(
        ("dynamic_dense", given, result, tiling, ending, dot, kind, len(tensors)),
        lambda: integer_dense(
            (given, result), tiling, dot, (operands, decode), ending, low.machine.threads
        ),
        [x, low.constant(pack_groups(codes, tiling)), *tensors, *ending.tensors],
        result,
        ending.dtype,
    )
    low.define(found, made)
    return True


def integer_convolved(low: Lowering, node: onnx_ir.Node, w: Window, bias: Array | None) -> bool:
    """Slide a window of constant codes over codes; tell whether that can be."""
    dot = find_dot(low.machine)
    source, codes = source_of(low, node.inputs[0]), codes_of(low, node.inputs[1])
    if dot is None or source is None or codes is None or w.depth == 1:
        return False
    if codes.scales.size > 1 and codes.axis != 0:
        return False
    value, grid = source
    point = w.groups == 1 and w.y.bare and w.x.bare
    point = point and w.y.reach * w.x.reach * w.y.stride * w.x.stride == 1
    pixels = w.batch * w.y.result * w.x.result
    tiling = best_tiling(pixels, w.outputs, low.machine) if point else window_tiling(w, low.machine)
    padded = w.outputs if w.groups > 1 else tiling.panels * tiling.width
    found, ending = find_ending(low, node, LAST, padded, bias)
    own = w.outputs // w.groups
    kernel = (w.y.kernel, w.x.kernel)
    values = codes.values.reshape(w.groups, own, w.depth, *kernel)
    tensors, decoded = _decoded(
        low, values.sum((2, 3, 4), dtype=np.int32).reshape(-1), codes, grid, dot, padded
    )
    given, shape = w.shapes()
    plain = low.shape(node.outputs[0])
    x = low.tensor(value, LAST)
    if len(plain) == 3:
        x = low.reshaped(x, given)
    kind = grid.dtype, grid.zero
    make = lambda: integer_convolution(w, tiling, dot, kind, decoded, ending, low.machine)  # noqa: E731
    key: tuple[object, ...] = ("integer_convolution", w, tiling, ending, dot, kind)
    if point:
        x = whole_groups(low, x, given, grid.dtype, dot)
        rows = (*given[:-1], groups(w.depth) * GROUP)
        threads = low.machine.threads
        make = lambda: integer_dense((rows, shape), tiling, dot, decoded, ending, threads)  # noqa: E731
        key = ("integer_point", rows, shape, tiling, ending, dot)
    packed = _window(values, tiling)
    weights = low.constant(packed[0] if point else packed)
    arguments = [x, weights, *tensors, *ending.tensors]
    made = low.call(key, make, arguments, shape, ending.dtype)
    last = (plain[0], *plain[2:], plain[1])
    low.define(found, low.reshaped(made, last) if len(plain) == 3 else made, LAST)
    return True


def _window(values: Array, tiling: Tiling) -> Array:
    """Return ``[groups, outputs, depth, ky, kx]`` as ``[groups, panels, ky kx groups, width, 4]``."""
    many, own, depth, ky, kx = values.shape
    deep = groups(depth) * GROUP
    wide = np.zeros((many, ky, kx, deep, own), np.int8)
    wide[..., :depth, :] = values.transpose(0, 3, 4, 2, 1)
    return pack_groups(wide.reshape(many, ky * kx * deep, own), tiling)


def _decoded(
    low: Lowering, totals: Array, codes: Codes, grid: Grid, dot: Dot, padded: int
) -> tuple[list[Expr], tuple[tuple[tuple[tuple[int, ...], str], ...], Decoding]]:
    """Return the constants of each output, and what makes the number that a sum stands for with them."""
    zero = grid.zero + (0 if grid.dtype == dot.dtype else dot.shift)
    offsets, factors = np.zeros(padded, np.int32), np.zeros(padded, np.float32)
    offsets[: totals.size] = np.multiply(-zero, totals)
    scales = np.broadcast_to(codes.scales, totals.shape)
    factors[: totals.size] = np.multiply(np.float32(grid.scale), scales, dtype=np.float32)

    def decode(total: Expr, output: Expr, operands: list[Expr]) -> Expr:
        return tirx.Cast("float32", total + operands[0][output]) * operands[1][output]

    tensors = [low.constant(offsets), low.constant(factors)]
    return tensors, ((((padded,), "int32"), ((padded,), "float32")), decode)


def whole_groups(low: Lowering, x: Expr, shape: tuple[int, ...], dtype: str, dot: Dot) -> Expr:
    """Return rows of codes as the instruction reads them: of its type, and of whole groups."""
    size = shape[-1]
    deep = groups(size) * GROUP
    if dtype == dot.dtype and deep == size:
        return x

    def filled(x: Expr) -> Expr:
        def one(*i: Expr) -> Expr:
            at = i[-1] if deep == size else tirx.min(i[-1], size - 1)
            return flipped(x(*i[:-1], at), dtype, dot.dtype)

        return te.compute((*shape[:-1], deep), one, name="groups")

    return low.te(filled, x, name="groups")
