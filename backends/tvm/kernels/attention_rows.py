"""Rows of scores that arrive block by block: their exponentials, what sums so far are scaled by, and the total.

A vector holds the largest score of a row in every element, and another one parts of the total: nothing is reduced to
one number before the end.
"""

import math
from collections.abc import Callable
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.writing import scratch
from whet.backends.tvm.mathematics import let

__all__ = ["LOWEST", "Rows", "exp_below"]

LOWEST = -3.0e38
_SMALLEST = -87.0
_ROUNDER = 1.5 * 2**23
"""Adding it rounds to a whole number, which is in the last bits then."""
_LN2 = (0.693359375, -2.12194440e-4)
_CHAINS = 4


def _f(number: float) -> Expr:
    return tirx.FloatImm("float32", number)


def exp_below(x: Expr) -> Expr:
    """Return eˣ for x ≤ 0: 2ⁿ eʳ, the latter by Taylor's series, n added to the exponent; below -87 zero."""

    def power(v: Expr) -> Expr:
        return let(v * _f(math.log2(math.e)) + _f(_ROUNDER), lambda t: rest(v, t))

    def rest(v: Expr, t: Expr) -> Expr:
        n = t - _f(_ROUNDER)
        return let(
            n, lambda n: let((v - n * _f(_LN2[0])) - n * _f(_LN2[1]), lambda r: last(v, t, r))
        )

    def last(v: Expr, t: Expr, r: Expr) -> Expr:
        found = _f(1 / math.factorial(6))
        for k in range(5, -1, -1):
            found = found * r + _f(1 / math.factorial(k))
        bits = tirx.reinterpret("int32", found) + (tirx.reinterpret("int32", t) << 23)
        return tirx.Select(v < _f(_SMALLEST), _f(0.0), tirx.reinterpret("float32", bits))

    return let(x, power)


class Rows:
    """The rows of a block of queries."""

    def __init__(self, count: int, wide: int, lanes: int, table: Any) -> None:
        """Take the memory of ``count`` rows of ``wide`` scores."""
        self._count, self._wide, self._lanes, self._table = count, wide, lanes, table
        self._top, self._total, self._factor = (scratch(count * lanes) for _ in range(3))
        self._share = scratch(lanes)

    def begin(self) -> None:
        """Write that nothing was seen yet."""
        with T.serial(0, self._count) as r, T.vectorized(0, self._lanes) as j:
            T.buffer_store(self._top, _f(LOWEST), [r * self._lanes + j])
            T.buffer_store(self._total, _f(0.0), [r * self._lanes + j])

    def scale(self, row: Expr) -> Expr:
        """Return what sums so far are multiplied by."""
        return self._factor[tirx.Ramp(row * self._lanes, 1, self._lanes)]

    def share(self) -> Expr:
        """Return one over the total of the row that was closed; none of a row that has seen no key."""
        return self._share[0]

    def soften(self, row: Expr, count: int) -> None:
        """Replace the first ``count`` scores of a row, a multiple of the lanes, by exponentials."""
        lanes, table = self._lanes, self._table
        own, base = row * lanes, row * self._wide
        best = self._chains(
            count, LOWEST, lambda old, at, _: tirx.max(old, table[base + at]), tirx.max
        )
        here = tirx.Ramp(own, 1, lanes)
        highest = scratch(lanes)
        all_of = tirx.Ramp(0, 1, lanes)
        T.buffer_store(highest, tirx.max(best[all_of], self._top[here]), [all_of])
        self._everywhere(highest, tirx.max)
        with T.vectorized(0, lanes) as j:
            T.buffer_store(self._factor, exp_below(self._top[own + j] - highest[j]), [own + j])
        T.buffer_store(self._top, highest[all_of], [here])

        def add(old: Expr, at: Expr, j: Expr) -> Expr:
            T.buffer_store(table, exp_below(table[base + at] - highest[j]), [base + at])
            return old + table[base + at]

        total = self._chains(count, 0.0, add, lambda a, b: a + b)
        T.buffer_store(self._total, self._total[here] * self._factor[here] + total[all_of], [here])

    def close(self, row: Expr) -> None:
        """Add up the total of a row."""
        lanes = self._lanes
        all_of = tirx.Ramp(0, 1, lanes)
        total = scratch(lanes)
        T.buffer_store(total, self._total[tirx.Ramp(row * lanes, 1, lanes)], [all_of])
        self._everywhere(total, lambda a, b: a + b)
        seen = self._top[row * lanes] > _f(LOWEST / 2)
        T.buffer_store(self._share, tirx.Select(seen, _f(1.0) / total[0], _f(0.0)), [0])

    def _chains(
        self,
        count: int,
        start: float,
        step: Callable[[Expr, Expr, Expr], Expr],
        combine: Callable[[Expr, Expr], Expr],
    ) -> Any:
        """Write ``step(so far, place, lane)`` for all vectors of a row, in chains; return their result."""
        lanes = self._lanes
        vectors = count // lanes
        chains = min(_CHAINS, vectors)
        found = scratch(chains * lanes)
        for c in range(chains):
            T.buffer_store(
                found, tirx.Broadcast(_f(start), lanes), [tirx.Ramp(c * lanes, 1, lanes)]
            )

        def one(at: Expr, c: int) -> None:
            with T.vectorized(0, lanes) as j:
                T.buffer_store(found, step(found[c * lanes + j], at + j, j), [c * lanes + j])

        whole, rest = divmod(vectors, chains)
        with T.serial(0, whole) as i:
            for c in range(chains):
                one((i * chains + c) * lanes, c)
        for c in range(rest):
            one((whole * chains + c) * lanes, c)
        first = tirx.Ramp(0, 1, lanes)
        for c in range(1, chains):
            other = found[tirx.Ramp(c * lanes, 1, lanes)]
            T.buffer_store(found, combine(found[first], other), [first])
        return found

    def _everywhere(self, vector: Any, combine: Callable[[Expr, Expr], Expr]) -> None:
        """Combine all elements of a vector, and write the result to each of them."""
        lanes = self._lanes
        all_of = tirx.Ramp(0, 1, lanes)
        step = lanes // 2
        while step:
            turned = [tirx.const((j + step) % lanes, "int32") for j in range(lanes)]
            T.buffer_store(
                vector, combine(vector[all_of], tirx.Shuffle([vector[all_of]], turned)), [all_of]
            )
            step //= 2
