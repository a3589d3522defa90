"""Convolutions of codes of 8 bits, channels last: a task copies the lines it needs, in groups of four channels.

The border holds the code of zero, so that the correction of a sum is the same for every pixel.
"""

import math
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.convolution import Window, each_pixel, lines_of
from whet.backends.tvm.kernels.integer_dot import GROUP, Dot, flipped, group_at, groups
from whet.backends.tvm.kernels.integer_product import Decoding, add_groups
from whet.backends.tvm.kernels.writing import Tiling, each, function, scratch, tasks
from whet.backends.tvm.machine import Machine

__all__ = ["integer_convolution"]


def integer_convolution(
    w: Window,
    tiling: Tiling,
    dot: Dot,
    source: tuple[str, int],
    decoded: tuple[tuple[tuple[tuple[int, ...], str], ...], Decoding],
    ending: Ending,
    machine: Machine,
) -> Any:
    """Return the kernel: arguments x of a type with a zero (``source``), packed weights, those of the decoding and the
    ending, y.
    """
    lines = lines_of(w, machine)
    blocks = w.y.result // lines
    tall = (lines - 1) * w.y.stride + w.y.reach
    wide = (w.x.result - 1) * w.x.stride + w.x.reach
    own = w.outputs // w.groups
    width = min(tiling.rows, w.x.result)
    high = min(max(1, tiling.rows // w.x.result) if width == w.x.result else 1, lines)
    deep = groups(w.depth) * GROUP
    joined = w.x.dilation == 1
    outer, steps = (1, w.x.kernel * deep // GROUP) if joined else (w.x.kernel, deep // GROUP)
    window = w.y.kernel * w.x.kernel * deep // GROUP
    operands, decode = decoded

    def body(x: Any, weights: Any, *rest: Any) -> None:
        *more, y = rest
        with tasks(w.batch * w.groups * blocks, math.prod(w.shapes()[1]) * window) as task:
            block = tirx.floormod(task, blocks)
            group = tirx.floormod(tirx.floordiv(task, blocks), w.groups)
            sample = tirx.floordiv(task, blocks * w.groups)
            near = scratch(tall * wide * deep, dot.dtype)
            first = block * lines
            where = (sample, group, first * w.y.stride - w.y.before)
            _copy(w, (x, *source), (near, dot), where, (tall, wide, deep), machine.lanes * GROUP)

            def tile(panel: Expr, line: Expr, column: Expr, height: int, breadth: int) -> None:
                part = tiling.tile(height * breadth, "int32")
                sums = part.clear()
                base = (group * tiling.panels + panel) * window
                reach = tiling.lanes * GROUP
                with (
                    T.serial(0, w.y.kernel) as ky,
                    T.serial(0, outer) as kx,
                    T.serial(0, steps) as t,
                ):
                    at = (base + (ky * outer + kx) * steps + t) * tiling.vectors

                    def pixel(r: int) -> Expr:
                        py = (line + r // breadth) * w.y.stride + ky * w.y.dilation
                        px = (column + r % breadth) * w.x.stride + kx * w.x.dilation
                        return group_at(near, (py * wide + px) * deep + t * GROUP)

                    add_groups(
                        dot,
                        part,
                        sums,
                        pixel,
                        lambda v: weights[tirx.Ramp((at + v) * reach, 1, reach)],
                    )

                def write(r: Expr, c: Expr, value: Expr) -> None:
                    down, right = tirx.floordiv(r, breadth), tirx.floormod(r, breadth)
                    row = (sample * w.y.result + first + line + down) * w.x.result
                    channel = group * own + c
                    place = (row + column + right) * w.outputs + channel
                    found = decode(value, channel, more[: len(operands)])
                    found = ending.apply(found, place, channel, more[len(operands) :])
                    T.buffer_store(y, found, [place])

                part.finish(sums, own, panel, write)

            def strip(panel: Expr, line: Expr, height: int) -> None:
                whole, left = divmod(w.x.result, width)
                with T.serial(0, whole) as i:
                    tile(panel, line, i * width, height, width)
                if left:
                    tile(panel, line, tirx.const(whole * width, "int32"), height, left)

            with T.serial(0, tiling.panels) as panel:
                with T.serial(0, lines // high) as i:
                    strip(panel, i * high, high)
                if lines % high:
                    strip(panel, tirx.const(lines // high * high, "int32"), lines % high)

    shapes = w.shapes()
    packed = (w.groups, tiling.panels, window, tiling.width, GROUP)
    given = [(shapes[0], source[0]), (packed, "int8"), *operands, *ending.arguments()]
    return function("integer_convolution", [*given, (shapes[1], ending.dtype)], body)


def _copy(
    w: Window,
    source: tuple[Any, str, int],
    to: tuple[Any, Dot],
    where: tuple[Expr, Expr, Expr],
    size: tuple[int, int, int],
    lanes: int,
) -> None:
    """Copy lines of the input in the type of the instruction, with the code of zero for the border."""
    x, dtype, zero = source
    near, dot = to
    sample, group, top = where
    tall, wide, deep = size
    blank = tirx.const(zero + (0 if dtype == dot.dtype else dot.shift), dot.dtype)

    def pixel(line: Expr, column: Expr, outside: bool) -> None:
        place = (line * wide + column) * deep
        start = ((sample * w.y.size + top + line) * w.x.size + column - w.x.before) * w.inputs
        own = start + group * w.depth

        def one(c: Expr) -> None:
            value = blank if outside else flipped(x[own + c], dtype, dot.dtype)
            T.buffer_store(near, value, [place + c])

        each(w.depth, min(lanes, _floor(w.depth)), one)
        with T.serial(0, deep - w.depth) as c:
            T.buffer_store(near, blank, [place + w.depth + c])

    each_pixel(w, top, (tall, wide), pixel)


def _floor(number: int) -> int:
    """Return the largest power of two that is not greater."""
    return 1 << (number.bit_length() - 1)
