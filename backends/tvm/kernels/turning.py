"""Squares of numbers turned in registers."""

from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.writing import scratch

__all__ = ["turn", "turn_rows"]

Place = tuple[Any, Expr, Expr]
"""Memory, where the square begins in it, and the distance of its rows."""


def turn(source: Place, to: Place, lanes: int) -> None:
    """Store the transpose of a square of ``lanes`` rows and columns.

    Each round interleaves row ``i`` with row ``i + lanes / 2``: the bits of row and column move on by one place, and
    have changed sides after as many rounds as there are bits.
    """
    x, start, stride = source
    y, begin, step = to
    rows = [scratch(lanes) for _ in range(2 * lanes)]
    now, then = rows[:lanes], rows[lanes:]
    whole = tirx.Ramp(0, 1, lanes)
    for i, row in enumerate(now):
        T.buffer_store(row, x[tirx.Ramp(start + i * stride, 1, lanes)], [whole])
    for _ in range(lanes.bit_length() - 1):
        for i in range(lanes // 2):
            pair = [now[i][whole], now[i + lanes // 2][whole]]
            for k in (0, 1):
                T.buffer_store(then[2 * i + k], tirx.Shuffle(pair, _mixed(lanes, k)), [whole])
        now, then = then, now
    for i, row in enumerate(now):
        T.buffer_store(y, row[whole], [tirx.Ramp(begin + i * step, 1, lanes)])


def turn_rows(
    source: tuple[Any, int, int], to: tuple[Any, int], tile: tuple[Expr, int], lanes: int
) -> None:
    """Turn some vectors of rows, so that each input is ``height`` numbers; rows that do not exist are zeros.

    ``source`` is memory, its rows and inputs, ``to`` is memory and the height, ``tile`` the first row and the vectors.
    """
    (x, rows, inputs), (turned, height), (first, vectors) = source, to, tile
    whole = inputs // lanes

    def single(v: Expr, k: Expr, r: Expr) -> None:
        row = first + v * lanes + r
        value = x[tirx.min(row, rows - 1) * inputs + k]
        zero = tirx.FloatImm("float32", 0.0)
        T.buffer_store(turned, tirx.Select(row < rows, value, zero), [k * height + v * lanes + r])

    def plainly(v: Expr, begin: int) -> None:
        if begin < inputs:
            with T.serial(0, lanes) as r, T.serial(0, inputs - begin) as k:
                single(v, begin + k, r)

    def quickly(v: Expr) -> None:
        if whole:
            with T.serial(0, whole) as i:
                start = (first + v * lanes) * inputs + i * lanes
                turn((x, start, inputs), (turned, i * lanes * height + v * lanes, height), lanes)
        plainly(v, whole * lanes)

    with T.serial(0, vectors) as v:
        if rows % lanes == 0:
            quickly(v)
        else:
            with T.If(first + (v + 1) * lanes <= rows):
                with T.Then():
                    quickly(v)
                with T.Else():
                    plainly(v, 0)


def _mixed(lanes: int, half: int) -> list[Expr]:
    """Return the order that takes turns between the halves ``half`` of two vectors."""
    begin = half * lanes // 2
    return [tirx.const(begin + n // 2 + (n % 2) * lanes, "int32") for n in range(lanes)]
