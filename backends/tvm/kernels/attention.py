"""Attention: rows of scores that never leave a core's own cache.

For each head the keys are turned once, so that a vector holds as many keys; then for each tile of queries: scores,
softmax, and the sum of values, without a matrix of all scores (Dao et al., FlashAttention, 2022; whole rows fit here).
"""

import dataclasses
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.rows import fold
from whet.backends.tvm.kernels.writing import (
    Tiling,
    best_tiling,
    each,
    function,
    scratch,
    tasks,
    up,
)
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.mathematics import exp, tanh

__all__ = ["Heads", "Sizes", "attention"]

_LOWEST = -3.0e38


@dataclasses.dataclass(frozen=True)
class Heads:
    """Where the rows of an operand are."""

    shape: tuple[int, ...]
    strides: tuple[int, int, int]
    """Between samples, heads and positions."""

    def row(self, sample: Expr, head: Expr, position: Expr) -> Expr:
        """Return where a row begins."""
        return sample * self.strides[0] + head * self.strides[1] + position * self.strides[2]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What an attention computes."""

    batch: int
    heads: int
    shared: int
    """Query heads that read the same keys."""
    queries: int
    keys: int
    size: int
    """Of a query and a key."""
    width: int
    """Of a value."""
    scale: float
    causal: int | None = None
    """A query sees keys up to its own number and this many more."""
    softcap: float = 0.0
    mask: tuple[int, ...] = ()
    """Shape of a mask of four axes."""
    truth: bool = False
    """Whether the mask says what is seen, instead of what is added."""


def attention(s: Sizes, q: Heads, k: Heads, v: Heads, y: Heads, machine: Machine) -> Any:
    """Return the kernel: arguments query, key, value, the mask if there is one, result."""
    lanes = machine.lanes
    scores = best_tiling(s.queries, s.keys, machine)
    rows = min(scores.rows, 8)
    scores = Tiling(rows, scores.vectors, lanes, scores.panels)
    values = best_tiling(rows, s.width, machine)
    parts = _parts(s, rows, machine.threads)
    own = up(-(-s.queries // parts), rows)
    wide, deep = scores.panels * scores.width, values.panels * values.width
    direct = deep == s.width

    def body(qb: Any, kb: Any, vb: Any, *rest: Any) -> None:
        *mask, yb = rest
        work = s.batch * s.heads * s.queries * s.keys * (s.size + s.width)
        with tasks(s.batch * s.heads * parts, work) as task:
            part = tirx.floormod(task, parts)
            head = tirx.floormod(tirx.floordiv(task, parts), s.heads)
            sample = tirx.floordiv(task, parts * s.heads)
            theirs = tirx.floordiv(head, s.shared) if s.shared > 1 else head
            turned = scratch(s.size * wide)
            _turn(s, kb, k, turned, (sample, theirs), wide)
            packed = vb
            if not direct:
                packed = scratch(s.keys * deep)
                _widen(s, vb, v, packed, (sample, theirs), deep, lanes)
            table = scratch(rows * wide)
            factors = scratch(rows)

            def tile(first: Expr, height: int) -> None:
                _score(s, (qb, q), turned, mask, table, (sample, head, first), height, scores)
                with T.serial(0, height) as r:
                    _soften(s, table, r * wide, factors, r, lanes)

                def value(i: Expr, n: Expr) -> Expr:
                    if direct:
                        return vb[tirx.Ramp(v.row(sample, theirs, i) + n, 1, lanes)]
                    return packed[tirx.Ramp(i * deep + n, 1, lanes)]

                with T.serial(0, values.panels) as panel:
                    block = values.tile(height)
                    sums = block.clear()
                    with T.serial(0, s.keys) as i:
                        block.add(
                            sums,
                            lambda r: table[r * wide + i],
                            lambda n: value(i, panel * values.width + n * lanes),
                        )

                    def write(r: Expr, column: Expr, total: Expr) -> None:
                        place = y.row(sample, head, first + r) + column
                        T.buffer_store(yb, total * factors[r], [place])

                    block.finish(sums, s.width, panel, write)

            with T.serial(0, own // rows) as i:
                first = part * own + i * rows
                with T.If(first + rows <= s.queries):
                    with T.Then():
                        tile(first, rows)
                    with T.Else():
                        if s.queries % rows:
                            with T.If(first < s.queries), T.Then():
                                tile(first, s.queries % rows)
                        else:
                            T.evaluate(0)

    kind = "bool" if s.truth else "float32"
    given = [(h.shape, "float32") for h in (q, k, v)]
    more = [(s.mask, kind)] if s.mask else []
    return function("attention", [*given, *more, (y.shape, "float32")], body)


def _parts(s: Sizes, rows: int, threads: int) -> int:
    """Return into how many parts the queries of a head go."""
    heads = s.batch * s.heads
    parts = 1
    while heads * parts % threads and heads * parts < 4 * threads and parts * rows < s.queries:
        parts += 1
    return parts


def _turn(s: Sizes, kb: Any, k: Heads, turned: Any, who: tuple[Expr, Expr], wide: int) -> None:
    """Store keys so that consecutive ones follow each other."""
    with T.serial(0, s.keys) as i, T.serial(0, s.size) as d:
        T.buffer_store(turned, kb[k.row(*who, i) + d], [d * wide + i])
    if wide > s.keys:
        with T.serial(0, s.size) as d, T.serial(0, wide - s.keys) as i:
            T.buffer_store(turned, tirx.FloatImm("float32", 0.0), [d * wide + s.keys + i])


def _widen(
    s: Sizes, vb: Any, v: Heads, packed: Any, who: tuple[Expr, Expr], deep: int, lanes: int
) -> None:
    """Store values in rows that vectors divide."""
    with T.serial(0, s.keys) as i:
        each(
            s.width,
            lanes,
            lambda d: T.buffer_store(packed, vb[v.row(*who, i) + d], [i * deep + d]),
        )
        with T.serial(0, deep - s.width) as d:
            T.buffer_store(packed, tirx.FloatImm("float32", 0.0), [i * deep + s.width + d])


def _score(
    s: Sizes,
    query: tuple[Any, Heads],
    turned: Any,
    mask: list[Any],
    table: Any,
    where: tuple[Expr, Expr, Expr],
    height: int,
    tiling: Tiling,
) -> None:
    """Write the scores of a tile of queries, masked."""
    qb, q = query
    sample, head, first = where
    wide = tiling.panels * tiling.width
    with T.serial(0, tiling.panels) as panel:
        block = tiling.tile(height)
        sums = block.clear()
        with T.serial(0, s.size) as d:
            block.add(
                sums,
                lambda r: qb[q.row(sample, head, first + r) + d],
                lambda n: turned[
                    tirx.Ramp(d * wide + panel * tiling.width + n * tiling.lanes, 1, tiling.lanes)
                ],
            )

        def write(r: Expr, column: Expr, total: Expr) -> None:
            value = total * tirx.FloatImm("float32", s.scale)
            value = _masked(s, value, mask, (sample, head, first + r, column))
            T.buffer_store(table, value, [r * wide + column])

        block.finish(sums, s.keys, panel, write)


def _masked(s: Sizes, value: Expr, mask: list[Any], at: tuple[Expr, ...]) -> Expr:
    """Return a score as the softmax reads it; what is not seen is so low that its exponential is zero."""
    lowest = tirx.FloatImm("float32", _LOWEST)
    if s.softcap:
        cap = tirx.FloatImm("float32", s.softcap)
        value = tanh(value / cap) * cap
    if mask:
        found = mask[0][_place(s.mask, at)]
        value = tirx.Select(found, value, lowest) if s.truth else tirx.max(value + found, lowest)
    if s.causal is not None:
        value = tirx.Select(at[3] <= at[2] + s.causal, value, lowest)
    return value


def _place(shape: tuple[int, ...], at: tuple[Expr, ...]) -> Expr:
    """Return where a mask that is repeated along axes of one has the element for a place."""
    found: Expr = 0
    step = 1
    for size, index in zip(reversed(shape), reversed(at), strict=True):
        if size > 1:
            found = found + index * step
        step *= size
    return found


def _soften(s: Sizes, table: Any, base: Expr, factors: Any, row: Expr, lanes: int) -> None:
    """Replace a row of scores by exponentials, and note what to divide by; what sees no key is zero."""
    top = fold(s.keys, lanes, _LOWEST, tirx.max, lambda i: table[base + i])
    each(s.keys, lanes, lambda i: T.buffer_store(table, exp(table[base + i] - top), [base + i]))
    total = fold(s.keys, lanes, 0.0, lambda a, b: a + b, lambda i: table[base + i])
    one, none = tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", 0.0)
    seen = top > tirx.FloatImm("float32", _LOWEST / 2)
    T.buffer_store(factors, tirx.Select(seen, one / total, none), [row])
