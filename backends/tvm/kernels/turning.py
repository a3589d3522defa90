"""Squares of numbers turned in registers."""

from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.writing import scratch

__all__ = ["turn"]

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


def _mixed(lanes: int, half: int) -> list[Expr]:
    """Return the order that takes turns between the halves ``half`` of two vectors."""
    begin = half * lanes // 2
    return [
        tirx.const(begin + n // 2 + (n % 2) * lanes, "int32") for n in range(lanes)
    ]
