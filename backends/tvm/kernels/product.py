"""Matrix products: a panel of prepacked columns against tiles of rows, sums in registers.

The right matrix is stored panel by panel, ``[panels, inputs, width]``, so that a step of the innermost loop reads
consecutive vectors (Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.writing import Tiling, each, function, scratch, tasks, up
from whet.ir.array import Array

__all__ = ["batched", "chunks", "dense", "pack"]

_NEAR = 1 << 18
"""Bytes of rows that stay in a core's own cache while the panels pass by."""


def pack(matrix: Array, tiling: Tiling) -> Array:
    """Return ``[inputs, outputs]`` as panels, the last one filled with zeros."""
    inputs, outputs = matrix.shape
    wide = np.zeros((inputs, tiling.panels * tiling.width), np.float32)
    wide[:, :outputs] = matrix
    return np.ascontiguousarray(
        wide.reshape(inputs, tiling.panels, tiling.width).transpose(1, 0, 2)
    )


def chunks(rows: int, inputs: int, tiling: Tiling, threads: int) -> int:
    """Return into how many parts the rows go, so that they stay near and all threads get as much."""
    tiles = -(-rows // tiling.rows)
    parts = max(1, min(tiles, -(-(rows * inputs * 4) // _NEAR)))
    while parts * tiling.panels % threads and parts * tiling.panels < 8 * threads and parts < tiles:
        parts += 1
    return parts


def dense(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    outputs: int,
    tiling: Tiling,
    ending: Ending,
    schedule: Mapping[str, int],
) -> Any:
    """Return the kernel of rows times a packed matrix: arguments x, w, those of the ending, y.

    ``schedule`` says how rows, reduction and loops are cut (:class:`whet.backends.tvm.works.dense.Dense`).
    """
    inputs = shapes[0][-1]
    rows = int(np.prod(shapes[0][:-1], dtype=np.int64))
    parts, unrolled = schedule["parts"], schedule["unrolled"]
    deep = schedule["depth"] or inputs
    tiles = -(-rows // tiling.rows)
    own = -(-tiles // parts)  # tiles of a part
    full = rows // tiling.rows
    weights = (tiling.panels, inputs, tiling.width)

    def steps(x: Any, w: Any, panel: Expr, at: tuple[Expr, int, Expr, int], sums: Any) -> None:
        first, height, begin, count = at
        base = panel * (inputs * tiling.width)
        tile = tiling.tile(height)

        def step(k: Expr) -> None:
            tile.add(
                sums,
                lambda r: x[(first + r) * inputs + k],
                lambda v: w[tirx.Ramp(base + k * tiling.width + v * tiling.lanes, 1, tiling.lanes)],
            )

        with T.serial(0, count // unrolled) as k:
            for n in range(unrolled):
                step(begin + k * unrolled + n)
        for n in range(count % unrolled):
            step(begin + count - count % unrolled + n)

    def body(x: Any, w: Any, *rest: Any) -> None:
        *more, y = rest

        def block(panel: Expr, number: Expr, height: int) -> None:
            first = number * tiling.rows
            tile = tiling.tile(height)
            sums = tile.clear()
            steps(x, w, panel, (first, height, 0, inputs), sums)
            finish(panel, first, tile, sums)

        def finish(panel: Expr, first: Expr, tile: Any, sums: Any) -> None:
            def write(r: Expr, column: Expr, value: Expr) -> None:
                at = (first + r) * outputs + column
                T.buffer_store(y, ending.apply(value, at, column, more), [at])

            tile.finish(sums, outputs, panel, write)

        def pieces(panel: Expr, part: Expr) -> None:
            """Go through the reduction piece by piece; sums of all tiles wait in memory of the task."""
            kept = scratch(own * tiling.rows * tiling.width)

            def piece(
                number: Expr, i: Expr, height: int, begin: Expr, count: int, last: bool
            ) -> None:
                tile = tiling.tile(height)
                at = i * (tiling.rows * tiling.width)
                sums = tile.clear() if begin is None else tile.load(kept, at)
                where = (number * tiling.rows, height, 0 if begin is None else begin, count)
                steps(x, w, panel, where, sums)
                if last:
                    finish(panel, number * tiling.rows, tile, sums)
                else:
                    tile.store(sums, kept, at)

            count = -(-inputs // deep)
            every(part, lambda n, i, height: piece(n, i, height, None, deep, False))
            if count > 2:
                with T.serial(0, count - 2) as j:
                    begin = (j + 1) * deep
                    every(part, lambda n, i, height: piece(n, i, height, begin, deep, False))
            left = (count - 1) * deep
            every(part, lambda n, i, height: piece(n, i, height, left, inputs - left, True))

        def every(part: Expr, tile: Callable[[Expr, Expr, int], None]) -> None:
            with T.serial(0, own) as i:
                number = part * own + i
                with T.If(number < full):
                    with T.Then():
                        tile(number, i, tiling.rows)
                    with T.Else():
                        if rows % tiling.rows:
                            with T.If(number == full), T.Then():
                                tile(number, i, rows % tiling.rows)
                        else:
                            T.evaluate(0)

        with tasks(parts * tiling.panels, rows * inputs * outputs) as task:
            part, panel = tirx.floordiv(task, tiling.panels), tirx.floormod(task, tiling.panels)
            if schedule["turned"]:
                panel, part = tirx.floordiv(task, parts), tirx.floormod(task, parts)
            if deep < inputs:
                pieces(panel, part)
            else:
                every(part, lambda n, _, height: block(panel, n, height))

    arguments = [(shapes[0], "float32"), (weights, "float32"), *ending.arguments()]
    return function("dense", [*arguments, (shapes[1], ending.dtype)], body)


def batched(
    batch: int,
    sizes: tuple[int, int, int],
    strides: tuple[tuple[int, int], tuple[int, int]],
    repeats: tuple[Any, Any],
    arguments: list[tuple[tuple[int, ...], str]],
    tiling: Tiling,
    ending: Ending,
) -> Any:
    """Return the kernel of products of two tensors; the right one is packed while it runs.

    ``sizes`` are rows, inputs, outputs; ``strides`` those of rows and columns of either operand; ``repeats`` maps the
    number of a product to the first element of either.
    """
    rows, inputs, outputs = sizes
    width = tiling.panels * tiling.width

    def block(x: Any, w: Any, more: Any, y: Any, at: Any, height: int) -> None:
        number, panel, first, start = at
        tile = tiling.tile(height)
        sums = tile.clear()
        with T.serial(0, inputs) as k:
            tile.add(
                sums,
                lambda r: x[start + (first + r) * strides[0][0] + k * strides[0][1]],
                lambda v: w[
                    tirx.Ramp(k * width + panel * tiling.width + v * tiling.lanes, 1, tiling.lanes)
                ],
            )

        def write(r: Expr, column: Expr, value: Expr) -> None:
            place = (number * rows + first + r) * outputs + column
            T.buffer_store(y, ending.apply(value, place, column, more), [place])

        tile.finish(sums, outputs, panel, write)

    def body(x: Any, b: Any, *rest: Any) -> None:
        *more, y = rest
        with tasks(batch, batch * rows * inputs * outputs) as number:
            packed = scratch(inputs * width)
            start = repeats[1](number)
            with T.serial(0, inputs) as k:
                each(
                    outputs,
                    tiling.lanes,
                    lambda n: T.buffer_store(
                        packed, b[start + k * strides[1][0] + n * strides[1][1]], [k * width + n]
                    ),
                )
                if width > outputs:
                    with T.serial(0, width - outputs) as n:
                        T.buffer_store(
                            packed, tirx.FloatImm("float32", 0.0), [k * width + outputs + n]
                        )
            with T.serial(0, tiling.panels) as panel:
                left = repeats[0](number)
                full = rows // tiling.rows
                with T.serial(0, full) as i:
                    block(x, packed, more, y, (number, panel, i * tiling.rows, left), tiling.rows)
                if rows % tiling.rows:
                    rest_ = (number, panel, full * tiling.rows, left)
                    block(x, packed, more, y, rest_, rows % tiling.rows)

    assert up(outputs, tiling.lanes) <= width
    return function("batched", arguments, body)
