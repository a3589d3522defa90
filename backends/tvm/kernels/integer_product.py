"""Products of codes of 8 bits with sums of 32: rows times a matrix that is packed when the model is compiled.

Four inputs of an output lie together, as one instruction reads them: ``[panels, groups, width, 4]``. Zero points never
appear in the loop: Σ (x - z) w = Σ x w - z Σ w, and the latter is a constant of each output (Jacob et al., Quantization
and training of neural networks for efficient integer-arithmetic-only inference, 2018).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.integer_dot import GROUP, Dot, group_at, groups
from whet.backends.tvm.kernels.product import chunks
from whet.backends.tvm.kernels.writing import Sums, Tile, Tiling, function, tasks
from whet.ir.array import Array

__all__ = ["Decoding", "add_groups", "integer_dense", "pack_groups"]

Decoding = Callable[[Expr, Expr, Any], Expr]
"""What becomes of a sum: ``(sum, output, operands)``."""


def pack_groups(codes: Array, tiling: Tiling) -> Array:
    """Return ``[…, inputs, outputs]`` as ``[…, panels, groups, width, 4]``, filled up with zeros."""
    *lead, inputs, outputs = codes.shape
    deep = groups(inputs) * GROUP
    wide = np.zeros((*lead, deep, tiling.panels * tiling.width), np.int8)
    wide[..., :inputs, :outputs] = codes
    split = wide.reshape(*lead, deep // GROUP, GROUP, tiling.panels, tiling.width)
    last = len(lead)
    order = (*range(last), last + 2, last, last + 3, last + 1)
    return np.ascontiguousarray(split.transpose(order))


def add_groups(
    dot: Dot, tile: Tile, sums: Sums, left: Callable[[int], Expr], right: Callable[[int], Expr]
) -> None:
    """Add the products of one group for each row with vectors of groups."""
    vectors = [right(v) for v in range(tile.vectors)]
    for r in range(tile.rows):
        group = left(r)
        for v, vector in enumerate(vectors):
            sums.put(r, v, dot.apply(sums.get(r, v), group, vector))


def integer_dense(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    tiling: Tiling,
    dot: Dot,
    decoded: tuple[tuple[tuple[tuple[int, ...], str], ...], Decoding],
    ending: Ending,
    threads: int,
) -> Any:
    """Return the kernel: arguments x in rows of whole groups, packed w, those of decoding and ending, y."""
    deep, outputs = shapes[0][-1], shapes[1][-1]
    steps = deep // GROUP
    rows = int(np.prod(shapes[0][:-1], dtype=np.int64))
    parts = chunks(rows, steps, tiling, threads)
    tiles = -(-rows // tiling.rows)
    own = -(-tiles // parts)
    operands, decode = decoded
    weights = (tiling.panels, steps, tiling.width, GROUP)

    def block(x: Any, w: Any, more: Any, y: Any, panel: Expr, first: Expr, height: int) -> None:
        tile = tiling.tile(height, "int32")
        sums = tile.clear()
        base = panel * (steps * tiling.width * GROUP)
        wide = tiling.lanes * GROUP
        with T.serial(0, steps) as k:
            add_groups(
                dot,
                tile,
                sums,
                lambda r: group_at(x, (first + r) * deep + k * GROUP),
                lambda v: w[tirx.Ramp(base + (k * tiling.vectors + v) * wide, 1, wide)],
            )

        def write(r: Expr, column: Expr, value: Expr) -> None:
            at = (first + r) * outputs + column
            found = decode(value, column, more[: len(operands)])
            T.buffer_store(y, ending.apply(found, at, column, more[len(operands) :]), [at])

        tile.finish(sums, outputs, panel, write)

    def body(x: Any, w: Any, *rest: Any) -> None:
        *more, y = rest
        with tasks(parts * tiling.panels, rows * steps * outputs) as task:
            part, panel = tirx.floordiv(task, tiling.panels), tirx.floormod(task, tiling.panels)
            full, left = divmod(rows, tiling.rows)
            with T.serial(0, own) as i:
                number = part * own + i
                with T.If(number < full):
                    with T.Then():
                        block(x, w, more, y, panel, number * tiling.rows, tiling.rows)
                    with T.Else():
                        if left:
                            with T.If(number == full), T.Then():
                                block(x, w, more, y, panel, full * tiling.rows, left)
                        else:
                            T.evaluate(0)

    given = [(shapes[0], dot.dtype), (weights, "int8"), *operands, *ending.arguments()]
    return function("integer_dense", [*given, (shapes[1], ending.dtype)], body)
