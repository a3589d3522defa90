"""Squares of numbers turned in registers."""

from collections.abc import Callable
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.writing import scratch

__all__ = ["turn", "turn_rows"]

Lines = tuple[Any, Callable[[int], Expr]]
"""Memory, and where each line of a square begins in it."""


def turn(source: Lines, to: Lines, lanes: int) -> None:
    """Store the transpose of a square of ``lanes`` rows and columns.

    Each round interleaves row ``i`` with row ``i + lanes / 2``: the bits of row and column move on by one place, and
    have changed sides after as many rounds as there are bits.
    """
    (x, start), (y, begin) = source, to
    rows = [scratch(lanes) for _ in range(2 * lanes)]
    now, then = rows[:lanes], rows[lanes:]
    whole = tirx.Ramp(0, 1, lanes)
    for i, row in enumerate(now):
        T.buffer_store(row, x[tirx.Ramp(start(i), 1, lanes)], [whole])
    for _ in range(lanes.bit_length() - 1):
        for i in range(lanes // 2):
            pair = [now[i][whole], now[i + lanes // 2][whole]]
            for k in (0, 1):
                T.buffer_store(then[2 * i + k], tirx.Shuffle(pair, _mixed(lanes, k)), [whole])
        now, then = then, now
    for i, row in enumerate(now):
        T.buffer_store(y, row[whole], [tirx.Ramp(begin(i), 1, lanes)])


def turn_rows(
    source: tuple[Any, int, int], to: tuple[Any, int], tile: tuple[Expr, int], lanes: int
) -> None:
    """Turn some vectors of rows, so that each input is ``height`` numbers; behind the last row it is repeated.

    ``source`` is memory, its rows and inputs, ``to`` is memory and the height, ``tile`` the first row and the vectors.
    """
    (x, rows, inputs), (turned, height), (first, vectors) = source, to, tile
    whole, left = inputs // lanes, inputs % lanes

    def start(v: Expr, r: Expr) -> Expr:
        row = first + v * lanes + r
        return (tirx.min(row, rows - 1) if rows % lanes else row) * inputs

    with T.serial(0, vectors) as v:
        if whole:
            with T.serial(0, whole) as i:
                column, base = i * lanes, i * lanes * height + v * lanes
                turn(
                    (x, lambda r: start(v, r) + column),
                    (turned, lambda k: base + k * height),
                    lanes,
                )
        if left:
            with T.serial(0, lanes) as r, T.serial(0, left) as k:
                column = whole * lanes + k
                T.buffer_store(turned, x[start(v, r) + column], [column * height + v * lanes + r])


def _mixed(lanes: int, half: int) -> list[Expr]:
    """Return the order that takes turns between the halves ``half`` of two vectors."""
    begin = half * lanes // 2
    return [tirx.const(begin + n // 2 + (n % 2) * lanes, "int32") for n in range(lanes)]
