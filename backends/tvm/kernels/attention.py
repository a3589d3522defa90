"""Attention: blocks of scores that never leave a core's own cache, and no matrix of all of them.

For each head the keys are turned once, so that a vector holds as many keys. Then, for a block of queries, one block of
keys after the other: scores, exponentials below the largest score so far, and the sum of values, which is scaled
whenever a larger score is found (Dao et al., FlashAttention, 2022; Milakov and Gimelshein, Online normalizer
calculation for softmax, 2018). Queries and keys may come in pieces of columns, which are put together where they are
read: so the factors of a bias (FlashBias, 2025) cost their products and nothing else.
"""

import dataclasses
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.attention_rows import LOWEST, Rows
from whet.backends.tvm.kernels.writing import (
    Tiling,
    best_tiling,
    cycles,
    each,
    function,
    scratch,
    tasks,
    up,
)
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.mathematics import tanh

__all__ = ["Heads", "Piece", "Sizes", "attention"]

_QUERIES = 48
_KEYS = 256
"""About how many queries and keys meet at a time: their scores, and the values, stay near."""


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
class Piece:
    """Columns of queries or keys that are an operand of their own."""

    heads: Heads
    width: int
    factor: float = 1.0
    """What they are multiplied by."""


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


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How the work is cut."""

    queries: int
    """Of a block."""
    keys: int
    scores: Tiling
    values: Tiling
    parts: int
    """Tasks of a head."""
    blocks: int
    """Blocks of queries of a task."""

    @property
    def deep(self) -> int:
        """Return the columns of a value, filled up to panels."""
        return self.values.panels * self.values.width


def _plan(s: Sizes, machine: Machine) -> _Plan:
    tiling = best_tiling(min(s.queries, _QUERIES), s.keys, machine)
    parts = _parts(s, tiling.rows, machine.threads)
    own = -(-s.queries // parts)
    queries = up(-(-own // -(-own // _QUERIES)), tiling.rows)
    blocks = -(-s.keys // _KEYS)
    keys = min(up(-(-s.keys // blocks), tiling.width), up(s.keys, tiling.width))
    values = _values(queries, s.width, machine)
    return _Plan(queries, keys, tiling, values, parts, -(-own // queries))


def _values(rows: int, width: int, machine: Machine) -> Tiling:
    """Return the tiling of values; of equal ones that with the most vectors, which reads fewer scores."""
    lanes = machine.lanes
    total = -(-width // lanes)
    found: list[tuple[float, int, int]] = []
    for vectors in range(1, min(total, 8) + 1):
        tall = min((machine.registers - vectors - 1) // vectors, rows)
        if tall >= 1:
            steps = rows // tall * cycles(tall, vectors) + cycles(rows % tall, vectors)
            found.append((-(-total // vectors) * steps, -vectors, tall))
    _, vectors, tall = min(found)
    return Tiling(tall, -vectors, lanes, -(-total // -vectors))


def _parts(s: Sizes, rows: int, threads: int) -> int:
    """Return into how many parts the queries of a head go."""
    heads = s.batch * s.heads
    parts = 1
    while heads * parts % threads and heads * parts < 4 * threads and parts * rows < s.queries:
        parts += 1
    return parts


def attention(
    s: Sizes,
    q: tuple[Piece, ...],
    k: tuple[Piece, ...],
    v: Heads,
    y: Heads,
    machine: Machine,
) -> Any:
    """Return the kernel: arguments the pieces of queries and keys, values, the mask if there is one, result."""
    plan = _plan(s, machine)

    def body(*given: Any) -> None:
        writer = _Writer(s, plan, machine, q, k, v, y, given)
        work = s.batch * s.heads * s.queries * s.keys * (s.size + s.width)
        with tasks(s.batch * s.heads * plan.parts, work) as task:
            writer.task(task)

    kind = "bool" if s.truth else "float32"
    given = [(p.heads.shape, "float32") for p in (*q, *k)]
    more = [(s.mask, kind)] if s.mask else []
    return function("attention", [*given, (v.shape, "float32"), *more, (y.shape, "float32")], body)


class _Writer:
    """Writes the loops of one kernel."""

    def __init__(
        self,
        s: Sizes,
        plan: _Plan,
        machine: Machine,
        q: tuple[Piece, ...],
        k: tuple[Piece, ...],
        v: Heads,
        y: Heads,
        given: tuple[Any, ...],
    ) -> None:
        self.s, self.plan, self.lanes = s, plan, machine.lanes
        self.q = list(zip(q, given[: len(q)], strict=True))
        self.k = list(zip(k, given[len(q) : len(q) + len(k)], strict=True))
        self.v, self.y = (v, given[len(q) + len(k)]), (y, given[-1])
        self.mask = given[len(q) + len(k) + 1 : -1]

    def task(self, task: Expr) -> None:
        """Write the blocks of queries of one part of a head."""
        s, plan = self.s, self.plan
        part = tirx.floormod(task, plan.parts)
        self.head = tirx.floormod(tirx.floordiv(task, plan.parts), s.heads)
        self.sample = tirx.floordiv(task, plan.parts * s.heads)
        self.theirs = tirx.floordiv(self.head, s.shared) if s.shared > 1 else self.head
        panels = -(-s.keys // plan.scores.width)
        self.turned = scratch(panels * s.size * plan.scores.width)
        self._turn()
        self.packed = None
        if plan.deep != s.width:
            self.packed = scratch(s.keys * plan.deep)
            self._widen()
        self.queries = scratch(plan.queries * s.size)
        self.table = scratch(plan.queries * plan.keys)
        self.sums = scratch(plan.queries * plan.deep)
        self.rows = Rows(plan.queries, plan.keys, self.lanes, self.table)
        with T.serial(0, plan.blocks) as i:
            first = (part * plan.blocks + i) * plan.queries
            with T.If(first < s.queries), T.Then():
                self._block(first)

    def _block(self, first: Expr) -> None:
        """Write what a block of queries sees, and its results."""
        s, plan = self.s, self.plan
        self._read(first)
        self.rows.begin()
        whole, rest = divmod(s.keys, plan.keys)
        single = whole + (rest > 0) == 1
        if not single:
            zero = tirx.FloatImm("float32", 0.0)
            each(
                plan.queries * plan.deep,
                self.lanes,
                lambda i: T.buffer_store(self.sums, zero, [i]),
            )
        seen = whole
        if s.causal is not None and whole:
            last = first + (plan.queries - 1 + s.causal)
            seen = tirx.min(whole, tirx.floordiv(last, plan.keys) + 1)
        if whole:
            with T.serial(0, seen) as i:
                self._meet(first, i * plan.keys, plan.keys, single)
        if rest and s.causal is not None:
            with T.If(first + (plan.queries - 1 + s.causal) >= whole * plan.keys), T.Then():
                self._meet(first, whole * plan.keys, rest, single)
        elif rest:
            self._meet(first, whole * plan.keys, rest, single)
        heads, yb = self.y
        with T.serial(0, plan.queries) as r, T.If(first + r < s.queries), T.Then():
            self.rows.close(r)
            at = heads.row(self.sample, self.head, first + r)
            each(
                s.width,
                self.lanes,
                lambda d: T.buffer_store(
                    yb, self.sums[r * plan.deep + d] * self.rows.share(), [at + d]
                ),
            )

    def _meet(self, first: Expr, start: Expr, count: int, single: bool) -> None:
        """Write scores, exponentials and sums of values for a block of queries and one of keys."""
        s, plan = self.s, self.plan
        self._score(start, count)
        if s.softcap or s.mask or s.causal is not None:
            self._dress(first, start, count)
        if count % self.lanes:
            with (
                T.serial(0, plan.queries) as r,
                T.serial(0, up(count, self.lanes) - count) as j,
            ):
                low = tirx.FloatImm("float32", LOWEST)
                T.buffer_store(self.table, low, [r * plan.keys + count + j])
        with T.serial(0, plan.queries) as r:
            self.rows.soften(r, up(count, self.lanes))
        tiles, rest = divmod(plan.queries, plan.values.rows)
        with T.serial(0, plan.values.panels) as panel:
            with T.serial(0, tiles) as i:
                self._add(i * plan.values.rows, plan.values.rows, panel, (start, count), single)
            if rest:
                self._add(tiles * plan.values.rows, rest, panel, (start, count), single)

    def _turn(self) -> None:
        """Store keys so that consecutive ones of a panel follow each other."""
        s, width = self.s, self.plan.scores.width
        whole, rest = divmod(s.keys, width)

        def panel(number: Expr, count: int) -> None:
            base = number * (s.size * width)
            column = 0
            for piece, buffer in self.k:
                with T.serial(0, count) as i, T.serial(0, piece.width) as d:
                    row = piece.heads.row(self.sample, self.theirs, number * width + i)
                    value = _times(buffer[row + d], piece.factor)
                    T.buffer_store(self.turned, value, [base + (column + d) * width + i])
                column += piece.width
            if count < width:
                zero = tirx.FloatImm("float32", 0.0)
                with T.serial(0, s.size) as d, T.serial(0, width - count) as i:
                    T.buffer_store(self.turned, zero, [base + d * width + count + i])

        if whole:
            with T.serial(0, whole) as number:
                panel(number, width)
        if rest:
            panel(tirx.const(whole, "int32"), rest)

    def _widen(self) -> None:
        """Store values in rows that vectors divide."""
        s, deep = self.s, self.plan.deep
        heads, vb = self.v
        with T.serial(0, s.keys) as i:
            row = heads.row(self.sample, self.theirs, i)
            each(
                s.width,
                self.lanes,
                lambda d: T.buffer_store(self.packed, vb[row + d], [i * deep + d]),
            )
            with T.serial(0, deep - s.width) as d:
                zero = tirx.FloatImm("float32", 0.0)
                T.buffer_store(self.packed, zero, [i * deep + s.width + d])

    def _read(self, first: Expr) -> None:
        """Put a block of queries together, scaled; behind the last one it is read again."""
        column = 0
        for piece, buffer in self.q:
            self._read_piece(piece, buffer, first, column)
            column += piece.width

    def _read_piece(self, piece: Piece, buffer: Any, first: Expr, column: int) -> None:
        s, factor = self.s, piece.factor * self.s.scale
        with T.serial(0, self.plan.queries) as r:
            position = tirx.min(first + r, s.queries - 1)
            row = piece.heads.row(self.sample, self.head, position)
            base = r * s.size + column
            each(
                piece.width,
                self.lanes,
                lambda d: T.buffer_store(self.queries, _times(buffer[row + d], factor), [base + d]),
            )

    def _score(self, start: Expr, count: int) -> None:
        """Write the products of the block's queries with keys."""
        s, tiling, wide = self.s, self.plan.scores, self.plan.keys
        lanes = tiling.lanes
        with (
            T.serial(0, -(-count // tiling.width)) as panel,
            T.serial(0, self.plan.queries // tiling.rows) as i,
        ):
            block = tiling.tile(tiling.rows)
            sums = block.clear()
            base = (tirx.floordiv(start, tiling.width) + panel) * (s.size * tiling.width)
            with T.serial(0, s.size) as d:
                block.add(
                    sums,
                    lambda r: self.queries[(i * tiling.rows + r) * s.size + d],
                    lambda n: self.turned[tirx.Ramp(base + d * tiling.width + n * lanes, 1, lanes)],
                )
            sums.leave(
                self.table,
                lambda r, n: (i * tiling.rows + r) * wide + panel * tiling.width + n * lanes,
            )

    def _dress(self, first: Expr, start: Expr, count: int) -> None:
        """Cap and mask scores; blocks in front of the diagonal need no causal mask."""
        s, wide = self.s, self.plan.keys

        def dressed() -> None:
            with T.serial(0, self.plan.queries) as r:
                row = tirx.min(first + r, s.queries - 1)

                def one(c: Expr) -> None:
                    place = r * wide + c
                    at = (self.sample, self.head, row, start + c)
                    T.buffer_store(
                        self.table, _masked(s, self.table[place], self.mask, at), [place]
                    )

                each(count, self.lanes, one)

        if s.mask or s.softcap or s.causal is None:
            dressed()
            return
        with T.If(start + (count - 1) > first + s.causal), T.Then():
            dressed()

    def _add(
        self, row: Expr, height: int, panel: Expr, keys: tuple[Expr, int], single: bool
    ) -> None:
        """Add the values of a block of keys to a tile of sums, which are scaled first."""
        plan, lanes = self.plan, self.lanes
        start, count = keys
        width = plan.values.width
        block = plan.values.tile(height)

        def place(r: int, n: int) -> Expr:
            return (row + r) * plan.deep + panel * width + n * lanes

        sums = block.clear()
        if not single:
            for r in range(height):
                for n in range(block.vectors):
                    old = self.sums[tirx.Ramp(place(r, n), 1, lanes)]
                    sums.put(r, n, old * self.rows.scale(row + r))
        with T.serial(0, count) as i:
            block.add(
                sums,
                lambda r: self.table[(row + r) * plan.keys + i],
                lambda n: self._value(start + i, panel * width + n * lanes),
            )
        sums.leave(self.sums, place)

    def _value(self, key: Expr, column: Expr) -> Expr:
        heads, vb = self.v
        if self.packed is not None:
            return self.packed[tirx.Ramp(key * self.plan.deep + column, 1, self.lanes)]
        at = heads.row(self.sample, self.theirs, key) + column
        return vb[tirx.Ramp(at, 1, self.lanes)]


def _times(x: Expr, factor: float) -> Expr:
    return x if factor == 1.0 else x * tirx.FloatImm("float32", factor)


def _masked(s: Sizes, value: Expr, mask: tuple[Any, ...], at: tuple[Expr, ...]) -> Expr:
    """Return a score as the softmax reads it; what is not seen is so low that its exponential is zero."""
    lowest = tirx.FloatImm("float32", LOWEST)
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
