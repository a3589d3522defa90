"""Convolutions with channels last: pixels are the rows of a product whose depth is the window times the channels.

A task copies the lines it needs, with the border, into memory of its own; tiles of pixels times vectors of channels
stay in registers while the window passes (Georganas et al., Anatomy of high-performance deep learning
convolutions, 2018).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.writing import Tiling, best_tiling, each, function, scratch, tasks
from whet.backends.tvm.machine import Machine
from whet.backends.windows import Axis
from whet.ir.array import Array

__all__ = [
    "Axis",
    "Window",
    "convolution",
    "depthwise",
    "each_pixel",
    "lines_of",
    "pack_depthwise",
    "pack_window",
    "window_tiling",
]


@dataclasses.dataclass(frozen=True)
class Window:
    """What a convolution of two directions reads."""

    batch: int
    y: Axis
    x: Axis
    inputs: int
    """Channels, of all groups."""
    outputs: int
    groups: int = 1

    @property
    def depth(self) -> int:
        """Return the channels that one result reads."""
        return self.inputs // self.groups

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of input and result, channels last."""
        return (
            (self.batch, self.y.size, self.x.size, self.inputs),
            (self.batch, self.y.result, self.x.result, self.outputs),
        )


def pack_window(weights: Array, groups: int, tiling: Tiling) -> Array:
    """Return ``[outputs, depth, ky, kx]`` as ``[groups, panels, ky, kx, depth, width]``."""
    outputs, depth, ky, kx = weights.shape
    own = outputs // groups
    wide = np.zeros((groups, tiling.panels * tiling.width, depth, ky, kx), np.float32)
    wide[:, :own] = weights.reshape(groups, own, depth, ky, kx)
    panels = wide.reshape(groups, tiling.panels, tiling.width, depth, ky, kx)
    return np.ascontiguousarray(panels.transpose(0, 1, 4, 5, 3, 2))


def lines_of(w: Window, machine: Machine) -> int:
    """Return how many lines a task computes: few enough to stay near, so many that all threads get as much."""
    found = [n for n in range(1, w.y.result + 1) if w.y.result % n == 0]
    line = (w.x.result * w.x.stride + w.x.reach) * w.depth * 4

    def price(lines: int) -> tuple[bool, bool, int]:
        count = w.batch * w.groups * (w.y.result // lines)
        read = (lines - 1) * w.y.stride + w.y.reach
        idle = count % machine.threads != 0 and count < 4 * machine.threads
        return read * line > 1 << 18, idle, -lines

    return min(found, key=price)


def convolution(
    w: Window, tiling: Tiling, ending: Ending, machine: Machine, schedule: Mapping[str, int]
) -> Any:
    """Return the kernel: arguments x, packed weights, those of the ending, y.

    ``schedule`` says how pixels and loops are cut (:class:`whet.backends.tvm.works.windowed.Windowed`).
    """
    lines = schedule["lines"]
    blocks = w.y.result // lines
    tall = (lines - 1) * w.y.stride + w.y.reach
    wide = (w.x.result - 1) * w.x.stride + w.x.reach
    own = w.outputs // w.groups
    width, high = schedule["wide"], min(schedule["high"], lines)
    window = w.y.kernel * w.x.kernel * w.depth

    def body(x: Any, weights: Any, *rest: Any) -> None:
        *more, y = rest
        work = math.prod(w.shapes()[1]) * window
        with tasks(w.batch * w.groups * blocks, work) as task:
            block = tirx.floormod(task, blocks)
            group = tirx.floormod(tirx.floordiv(task, blocks), w.groups)
            sample = tirx.floordiv(task, blocks * w.groups)
            near = scratch(tall * wide * w.depth)
            first = block * lines
            _copy(
                w,
                x,
                near,
                (sample, group, first * w.y.stride - w.y.before),
                (tall, wide),
                machine.lanes,
            )

            def tile(panel: Expr, line: Expr, column: Expr, height: int, breadth: int) -> None:
                part = tiling.tile(height * breadth)
                sums = part.clear()
                base = (group * tiling.panels + panel) * (window * tiling.width)

                def step(ky: Expr, kx: Expr, c: Expr) -> None:
                    at = base + ((ky * w.x.kernel + kx) * w.depth + c) * tiling.width

                    def pixel(r: int) -> Expr:
                        py = (line + r // breadth) * w.y.stride + ky * w.y.dilation
                        px = (column + r % breadth) * w.x.stride + kx * w.x.dilation
                        return near[(py * wide + px) * w.depth + c]

                    part.add(
                        sums,
                        pixel,
                        lambda v: weights[tirx.Ramp(at + v * tiling.lanes, 1, tiling.lanes)],
                    )

                columns = w.x.kernel if schedule["unrolled"] else 1
                with T.serial(0, w.y.kernel) as ky, T.serial(0, w.x.kernel // columns) as k:
                    for n in range(columns):
                        with T.serial(0, w.depth) as c:
                            step(ky, k * columns + n, c)

                def write(r: Expr, c: Expr, value: Expr) -> None:
                    down, right = tirx.floordiv(r, breadth), tirx.floormod(r, breadth)
                    row = (sample * w.y.result + first + line + down) * w.x.result
                    channel = group * own + c
                    place = (row + column + right) * w.outputs + channel
                    T.buffer_store(y, ending.apply(value, place, channel, more), [place])

                part.finish(sums, own, panel, write)

            def strip(panel: Expr, line: Expr, height: int) -> None:
                if w.x.result >= width:
                    with T.serial(0, w.x.result // width) as i:
                        tile(panel, line, i * width, height, width)
                if w.x.result % width:
                    tile(panel, line, w.x.result // width * width, height, w.x.result % width)

            if schedule["turned"]:
                with T.serial(0, lines // high) as i, T.serial(0, tiling.panels) as panel:
                    strip(panel, i * high, high)
                if lines % high:
                    with T.serial(0, tiling.panels) as panel:
                        strip(panel, lines // high * high, lines % high)
                return
            with T.serial(0, tiling.panels) as panel:
                with T.serial(0, lines // high) as i:
                    strip(panel, i * high, high)
                if lines % high:
                    strip(panel, lines // high * high, lines % high)

    shapes = w.shapes()
    packed = (w.groups, tiling.panels, w.y.kernel, w.x.kernel, w.depth, tiling.width)
    arguments = [(shapes[0], "float32"), (packed, "float32"), *ending.arguments()]
    return function("convolution", [*arguments, (shapes[1], ending.dtype)], body)


def _copy(
    w: Window, x: Any, near: Any, where: tuple[Expr, Expr, Expr], size: tuple[int, int], lanes: int
) -> None:
    """Copy lines of the input, from one that may lie outside on, with zeros for the border."""
    sample, group, top = where
    _, wide = size
    zero = tirx.FloatImm("float32", 0.0)

    def pixel(line: Expr, column: Expr, outside: bool) -> None:
        to = (line * wide + column) * w.depth
        start = ((sample * w.y.size + top + line) * w.x.size + column - w.x.before) * w.inputs
        source = start + group * w.depth
        each(
            w.depth,
            lanes,
            lambda c: T.buffer_store(near, zero if outside else x[source + c], [to + c]),
        )

    each_pixel(w, top, size, pixel)


def each_pixel(
    w: Window, top: Expr, size: tuple[int, int], pixel: Callable[[Expr, Expr, bool], None]
) -> None:
    """Write ``pixel(line, column, outside)`` for lines from ``top`` on; outside is the border around the image."""
    tall, wide = size
    with T.serial(0, tall) as line, T.serial(0, wide) as column:
        if w.y.bare and w.x.bare:
            pixel(line, column, False)
        else:
            inside = tirx.all(
                top + line >= 0,
                top + line < w.y.size,
                column >= w.x.before,
                column < w.x.before + w.x.size,
            )
            with T.If(inside):
                with T.Then():
                    pixel(line, column, False)
                with T.Else():
                    pixel(line, column, True)


def pack_depthwise(weights: Array, lanes: int) -> Array:
    """Return ``[channels, 1, ky, kx]`` as ``[ky, kx, channels]``, filled up to whole vectors."""
    channels, _, ky, kx = weights.shape
    found = np.zeros((ky, kx, -(-channels // lanes) * lanes), np.float32)
    found[:, :, :channels] = weights[:, 0].transpose(1, 2, 0)
    return found


def depthwise(w: Window, ending: Ending, machine: Machine, schedule: Mapping[str, int]) -> Any:
    """Return the kernel of one filter for each channel, channels in vectors: arguments x, weights, the ending's, y.

    ``schedule`` says how pixels and loops are cut (:class:`whet.backends.tvm.works.depthwise.Depthwise`).
    """
    lanes = machine.lanes
    one = dataclasses.replace(w, groups=1)
    lines = schedule["lines"]
    blocks = w.y.result // lines
    tall = (lines - 1) * w.y.stride + w.y.reach
    wide = (w.x.result - 1) * w.x.stride + w.x.reach
    vectors = -(-w.inputs // lanes)
    breadth = schedule["wide"]
    tiling = Tiling(breadth, 1, lanes, vectors)

    def body(x: Any, weights: Any, *rest: Any) -> None:
        *more, y = rest
        work = math.prod(w.shapes()[1]) * w.y.kernel * w.x.kernel
        with tasks(w.batch * blocks, work) as task:
            block, sample = tirx.floormod(task, blocks), tirx.floordiv(task, blocks)
            near = scratch(tall * wide * w.inputs + lanes)
            first = block * lines
            _copy(
                one,
                x,
                near,
                (sample, tirx.const(0, "int32"), first * w.y.stride - w.y.before),
                (tall, wide),
                lanes,
            )

            def tile(vector: Expr, line: Expr, column: Expr, count: int) -> None:
                part = tiling.tile(count)
                sums = part.clear()
                with T.serial(0, w.y.kernel) as ky, T.serial(0, w.x.kernel) as kx:
                    at = ((ky * w.x.kernel + kx) * vectors + vector) * lanes
                    factor = weights[tirx.Ramp(at, 1, lanes)]
                    for r in range(count):
                        py = line * w.y.stride + ky * w.y.dilation
                        px = (column + r) * w.x.stride + kx * w.x.dilation
                        start = (py * wide + px) * w.inputs + vector * lanes
                        sums.put(r, 0, sums.get(r, 0) + near[tirx.Ramp(start, 1, lanes)] * factor)
                row = (sample * w.y.result + first + line) * w.x.result + column

                def write(r: Expr, c: Expr, value: Expr) -> None:
                    place = (row + r) * w.outputs + c
                    T.buffer_store(y, ending.apply(value, place, c, more), [place])

                part.finish(sums, w.outputs, vector, write)

            outer, inner = (vectors, lines) if schedule["turned"] else (lines, vectors)
            with T.serial(0, outer) as i, T.serial(0, inner) as j:
                line, vector = (j, i) if schedule["turned"] else (i, j)
                with T.serial(0, w.x.result // breadth) as k:
                    tile(vector, line, k * breadth, breadth)
                if w.x.result % breadth:
                    tile(vector, line, w.x.result // breadth * breadth, w.x.result % breadth)

    shapes = w.shapes()
    packed = (w.y.kernel, w.x.kernel, vectors * lanes)
    arguments = [(shapes[0], "float32"), (packed, "float32"), *ending.arguments()]
    return function("depthwise", [*arguments, (shapes[1], ending.dtype)], body)


def window_tiling(w: Window, machine: Machine) -> Tiling:
    """Return the tiling for lines of pixels."""
    own = w.outputs // w.groups
    pixels = w.x.result * w.y.result
    return best_tiling(
        min(w.x.result, pixels) if w.x.result > 8 else pixels, own, machine, even=w.x.result > 8
    )
