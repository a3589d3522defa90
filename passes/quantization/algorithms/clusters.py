"""Weighted k-means on a line, row by row: the table of a row minimizes sum_i h_i (w_i - nearest entry)².

On a line the best clusters are intervals of the sorted weights, so the best partition is a shortest path (Bellman 1973;
Wang & Song, Ckmeans.1d.dp, 2011): D_c(i) = min_j D_{c-1}(j) + cost(j, i) over the first i weights in c clusters. Rows
of more than a hundred weights or so are first gathered into small intervals, shortest at both ends where outliers lie,
and the path is then improved on the weights themselves by Lloyd's iterations.
"""

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Codebook, Doubles, Floats

__all__ = ["assign", "check_book_bits", "cluster"]

_POINTS = 128
"""Intervals that a row is gathered into; rows of no more weights are solved exactly."""
_AT_ONCE = 1 << 20
"""Numbers in one table of interval costs."""
_ITERATIONS = 40

Edges = np.ndarray[tuple[int, ...], np.dtype[np.intp]]


def check_book_bits(weights: Array, bits: int) -> None:
    """Raise ValueError for what no table can be made of."""
    if not 1 <= bits <= 6:
        raise ValueError(f"bits is {bits}, a codebook has 1 to 6")
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"weights have shape {list(weights.shape)}, not [outputs, inputs]")
    if not np.isfinite(weights).all():
        raise ValueError("a weight is infinite or not a number")


def cluster(weights: Array, importance: Array | None, entries: int) -> Floats:
    """Return the sorted table ``[outputs, entries]`` of every row; ``importance`` h is like ``weights`` or one row.

    A row that is nowhere important is clustered as if it were everywhere.
    """
    outputs, inputs = weights.shape
    table = np.empty((outputs, entries), np.float32)
    points = min(inputs, max(_POINTS, 2 * entries))
    rows = max(1, _AT_ONCE // (points + 1) ** 2)
    for start in range(0, outputs, rows):
        part = weights[start : start + rows]
        h = importance
        if h is not None and len(h) > 1:
            h = h[start : start + rows]
        table[start : start + rows] = _Rows(part, h, points).table(entries)
    return table


def assign(weights: Array, table: Array, bits: int) -> Codebook:
    """Return every weight as the index of the nearest entry in its row of a sorted table."""
    exact = table.astype(np.float64)
    middles = (exact[:, 1:] + exact[:, :-1]) / 2
    codes = np.empty(weights.shape, np.uint8)
    for row, between in enumerate(middles):
        codes[row] = np.searchsorted(between, weights[row])
    return Codebook(codes, table, bits)


class _Rows:
    """A few rows, sorted, with running sums of h, h w and h w²."""

    def __init__(self, weights: Array, importance: Array | None, points: int) -> None:
        order = np.argsort(weights, axis=1, kind="stable")
        self._sorted: Doubles = np.take_along_axis(weights, order, 1).astype(np.float64)
        self._shift = self._sorted.mean(1, keepdims=True)
        self._sorted -= self._shift
        h = _positive(importance, weights.shape)
        h = np.take_along_axis(h, order, 1)
        self._mass, self._first, self._second = (
            np.pad(np.cumsum(h * self._sorted**power, axis=1), ((0, 0), (1, 0)))
            for power in range(3)
        )
        self._cuts = _cuts(weights.shape[1], points)

    def table(self, entries: int) -> Floats:
        """Return the centres of the best intervals."""
        edges = self._cuts[self._path(entries)]
        centres = self._centres(edges, self._spread(entries))
        for _ in range(_ITERATIONS):
            better = self._edges(centres)
            if np.array_equal(better, edges):
                break
            edges = better
            centres = self._centres(edges, centres)
        return np.asarray(centres + self._shift, np.float32)

    def _path(self, entries: int) -> Edges:
        """Return where the cheapest clusters of intervals begin and end, ``[rows, entries + 1]``."""
        mass, first, second = (
            sums[:, self._cuts] for sums in (self._mass, self._first, self._second)
        )
        cost = _between(second) - _between(first) ** 2 / np.maximum(_between(mass), 1e-300)
        count = cost.shape[1]
        np.maximum(cost, 0.0, out=cost)
        cost += np.where(np.tri(count, dtype=np.bool), 0.0, np.inf)
        best, came = cost[:, :, 0], list[Edges]()
        total = np.empty_like(cost)
        for _ in range(entries - 1):
            np.add(best[:, None, :], cost, out=total)
            came.append(total.argmin(2))
            best = np.take_along_axis(total, came[-1][:, :, None], 2)[:, :, 0]
        edges = np.zeros((len(cost), entries + 1), np.intp)
        edges[:, -1] = count - 1
        for k, origin in enumerate(reversed(came)):
            at = edges[:, entries - k][:, None]
            edges[:, entries - k - 1] = np.take_along_axis(origin, at, 1)[:, 0]
        return edges

    def _centres(self, edges: Edges, otherwise: Doubles) -> Doubles:
        """Return the means of the intervals in order; an empty one keeps its place."""
        mass = np.diff(np.take_along_axis(self._mass, edges, 1), axis=1)
        first = np.diff(np.take_along_axis(self._first, edges, 1), axis=1)
        filled = np.diff(edges, axis=1) > 0
        means = np.divide(first, mass, out=otherwise.copy(), where=filled & (mass > 0))
        return np.sort(means, axis=1)

    def _edges(self, centres: Doubles) -> Edges:
        """Return the borders between the weights nearest to each centre."""
        edges = np.zeros((len(centres), centres.shape[1] + 1), np.intp)
        edges[:, -1] = self._sorted.shape[1]
        middles = (centres[:, 1:] + centres[:, :-1]) / 2
        for row, between in enumerate(middles):
            edges[row, 1:-1] = np.searchsorted(self._sorted[row], between, side="right")
        return edges

    def _spread(self, entries: int) -> Doubles:
        """Return places for entries that no weight needs: spread over the row's range."""
        low, high = self._sorted[:, :1], self._sorted[:, -1:]
        return np.asarray(low + (high - low) * np.linspace(0, 1, entries))


def _positive(importance: Array | None, shape: tuple[int, ...]) -> Doubles:
    """Return h as doubles of mean 1 in every row, never quite zero, so that every weight belongs somewhere."""
    if importance is None:
        return np.ones(shape)
    h = np.broadcast_to(np.maximum(importance.astype(np.float64), 0.0), shape)
    mean = h.mean(1, keepdims=True)
    scaled = np.divide(h, mean, out=np.ones(shape), where=mean > 0)
    return np.asarray(scaled + 1e-9)


def _cuts(count: int, points: int) -> Edges:
    """Return the borders of intervals of ``count`` sorted weights: single weights at the ends, most in the middle."""
    if points >= count:
        return np.arange(count + 1)
    angles = np.linspace(0, np.pi, points + 1)
    return np.unique(np.rint(count * (1 - np.cos(angles)) / 2).astype(np.intp))


def _between(sums: Doubles) -> Doubles:
    """Return sums over all intervals, ``[rows, end, start]``."""
    return np.asarray(sums[:, :, None] - sums[:, None, :])
