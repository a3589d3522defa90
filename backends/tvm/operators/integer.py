"""Products and convolutions between Q and DQ, in integers: tried by the emitters of the float ones."""

import math

import numpy as np
import onnx_ir

from whet.backends.tvm.api import Expr, te, tirx
from whet.backends.tvm.epilogue import find_ending
from whet.backends.tvm.kernels.convolution import Window, window_tiling
from whet.backends.tvm.kernels.integer_convolution import integer_convolution
from whet.backends.tvm.kernels.integer_dot import GROUP, Dot, find_dot, flipped, groups
from whet.backends.tvm.kernels.integer_product import Decoding, integer_dense, pack_groups
from whet.backends.tvm.kernels.writing import Tiling, best_tiling
from whet.backends.tvm.lowering import LAST, PLAIN, Lowering
from whet.backends.tvm.quantized import Codes, Grid, codes_of, source_of
from whet.ir.array import Array

__all__ = ["integer_convolved", "integer_multiplied", "whole_groups"]


def integer_multiplied(
    low: Lowering,
    node: onnx_ir.Node,
    *,
    turned: bool = False,
    bias: Array | None = None,
) -> bool:
    """Multiply codes with a constant matrix of codes, ``turned`` if it is ``[outputs, inputs]``; tell whether that can be."""
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
        lambda: integer_dense(
            (given, result), tiling, dot, decoded, ending, low.machine.threads
        ),
        [x, low.constant(pack_groups(matrix, tiling)), *tensors, *ending.tensors],
        result,
        ending.dtype,
    )
    low.define(found, made)
    return True


def integer_convolved(
    low: Lowering, node: onnx_ir.Node, w: Window, bias: Array | None
) -> bool:
    """Slide a window of constant codes over codes; tell whether that can be."""
    dot = find_dot(low.machine)
    source, codes = source_of(low, node.inputs[0]), codes_of(low, node.inputs[1])
    if dot is None or source is None or codes is None or w.depth == 1:
        return False
    if codes.scales.size > 1 and codes.axis != 0:
        return False
    value, grid = source
    tiling = window_tiling(w, low.machine)
    padded = w.outputs if w.groups > 1 else tiling.panels * tiling.width
    found, ending = find_ending(low, node, LAST, padded, bias)
    own = w.outputs // w.groups
    kernel = (w.y.kernel, w.x.kernel)
    values = codes.values.reshape(w.groups, own, w.depth, *kernel)
    tensors, decoded = _decoded(
        low, values.sum((2, 3, 4), dtype=np.int32).reshape(-1), codes, grid, dot, padded
    )
    given, shape = w.shapes()
    x = low.tensor(value, LAST)
    plain = low.shape(node.outputs[0])
    made = low.call(
        ("integer_convolution", w, tiling, ending, dot, grid.dtype, grid.zero),
        lambda: integer_convolution(
            w, tiling, dot, (grid.dtype, grid.zero), decoded, ending, low.machine
        ),
        [
            low.reshaped(x, given) if len(plain) == 3 else x,
            low.constant(_window(values, tiling)),
            *tensors,
            *ending.tensors,
        ],
        shape,
        ending.dtype,
    )
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
    offsets[: totals.size] = -zero * totals
    scales = np.broadcast_to(codes.scales, totals.shape)
    factors[: totals.size] = np.float32(grid.scale) * scales

    def decode(total: Expr, output: Expr, operands: list[Expr]) -> Expr:
        return tirx.Cast("float32", total + operands[0][output]) * operands[1][output]

    tensors = [low.constant(offsets), low.constant(factors)]
    return tensors, ((((padded,), "int32"), ((padded,), "float32")), decode)


def whole_groups(
    low: Lowering, x: Expr, shape: tuple[int, ...], dtype: str, dot: Dot
) -> Expr:
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
