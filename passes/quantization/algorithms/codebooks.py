"""Codebooks: each weight is an index into a table of its row.

- SqueezeLLM (Kim et al., 2023): the table is the weighted k-means of the row; weights are the diagonal of the Fisher
  information, or of the Gram matrix where there are no gradients.
- LeanQuant (Zhang & Shrivastava, 2024): rounding column i costs (w - ŵ)² / [H⁻¹]_ii, so the table is the k-means with
  weights [H⁻¹]_ii^-p; then columns are rounded one by one, each error carried over to those still to come, as in GPTQ.

Whatever is returned is, by the layer's own error, not worse than rounding to the nearest point of an even grid.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Codebook, Floats, Layer
from whet.passes.quantization.algorithms.clusters import assign, check_book_bits, cluster
from whet.passes.quantization.algorithms.gptq import checked_gram, factor
from whet.passes.quantization.algorithms.inverse import inverse_diagonal
from whet.passes.quantization.algorithms.rounding import importance, round_to_nearest, row_errors

__all__ = [
    "Choice", "choose_rows", "even", "half_tables", "lean", "lean_rows", "refit", "squeeze",
]  # fmt: skip

_POWERS = (1.0, 2.0, 4.0)
_DAMPING = 0.01
_SOLVED = 1 << 24
"""Numbers in one portion of one-hot codes."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Of every row the best among several codebooks."""

    codebook: Codebook
    rows: Mapping[str, int]
    """How many rows each of them gave."""


def squeeze(layer: Layer, bits: int) -> Codebook:
    """Return the weighted k-means of every row; rounded evenly where the whole layer's error were worse otherwise."""
    check_book_bits(layer.weights, bits)
    h = layer.fisher
    if h is None:
        seen = importance(layer)
        h = None if seen is None else seen[None, :]
    found = assign(layer.weights, cluster(layer.weights, h, 2**bits), bits)
    plain = even(layer, bits)
    if layer.error(found) <= layer.error(plain):
        return found
    return choose_rows(layer, {"rtn": plain, "squeeze": found}).codebook


def lean(layer: Layer, bits: int, powers: Sequence[float] = _POWERS) -> Codebook:
    """Return every row with the power p that suits it best, or rounded evenly.

    Raises ValueError without a Gram matrix.
    """
    return lean_rows(layer, bits, powers).codebook


def lean_rows(layer: Layer, bits: int, powers: Sequence[float] = _POWERS) -> Choice:
    """Return what :func:`lean` returns, and which rows came from where."""
    check_book_bits(layer.weights, bits)
    gram = checked_gram(layer)
    diagonal = inverse_diagonal(gram)
    sweep = _Sweep(layer, bits)
    candidates = {"rtn": even(layer, bits)}
    for power in powers:
        # The scale of the importances does not matter to k-means; their largest becomes 1.
        h = (diagonal.min() / diagonal) ** power
        candidates[f"p={power:g}"] = sweep.run(cluster(layer.weights, h[None, :], 2**bits))
    return choose_rows(layer, candidates)


def even(layer: Layer, bits: int) -> Codebook:
    """Return the best of evenly spaced grids for every row: around zero or from end to end, clipped or not."""
    if bits == 1:
        ends = np.quantile(layer.weights, [0.25, 0.75], axis=1).T
        return assign(layer.weights, np.asarray(ends, np.float32), bits)
    found: dict[str, Codebook] = {}
    for symmetric in (True, False):
        for clip in ("extremes", "mse"):
            blocks = round_to_nearest(layer, bits, symmetric=symmetric, clip=clip)
            steps = np.arange(2**bits, dtype=np.float32)
            zeros = 2 ** (bits - 1) if blocks.zeros is None else blocks.zeros.astype(np.float32)
            table = np.sort((steps - zeros) * blocks.scales, axis=1)
            name = f"{clip}{symmetric}"
            found[name] = _looked_up(blocks.values(), table, bits)
    return choose_rows(layer, found).codebook


def _looked_up(values: Array, table: Array, bits: int) -> Codebook:
    return assign(values, np.asarray(table, np.float32), bits)


def choose_rows(layer: Layer, candidates: Mapping[str, Codebook]) -> Choice:
    """Return of every row the candidate with the smallest output error, the earlier of equals."""
    books = list(candidates.values())
    errors = np.stack([row_errors(layer.weights, b.values(), layer.judge) for b in books])
    best = errors.argmin(0)
    rows = np.arange(len(best))
    codes = np.stack([b.codes for b in books])[best, rows]
    tables = np.stack([np.broadcast_to(b.table, (len(best), b.table.shape[1])) for b in books])
    counts = {name: int((best == k).sum()) for k, name in enumerate(candidates)}
    return Choice(Codebook(codes, tables[best, rows], books[0].bits), counts)


class _Sweep:
    """Round column by column to a table; matrices are transposed, so that a column lies together."""

    _BLOCK = 128

    def __init__(self, layer: Layer, bits: int) -> None:
        gram = checked_gram(layer)
        self._order = np.argsort(-np.diagonal(gram), kind="stable")
        self._feedback = factor(gram, _DAMPING, self._order)
        self._weights: Floats = np.ascontiguousarray(layer.weights.T[self._order], np.float32)
        self._bits = bits

    def run(self, table: Floats) -> Codebook:
        """Return the nearest entries of what each column is to be once earlier errors are made up for."""
        entries: Floats = np.ascontiguousarray(table.T)
        middles: Floats = np.asarray((entries[1:] + entries[:-1]) / 2, np.float32)
        errors = np.zeros_like(self._weights)
        codes = np.empty(self._weights.shape, np.uint8)
        for start in range(0, len(self._weights), self._BLOCK):
            part = slice(start, start + self._BLOCK)
            targets = self._weights[part] + self._feedback[:start, part].T @ errors[:start]
            for k, target in enumerate(targets, start):
                target += self._feedback[start:k, k] @ errors[start:k]
                codes[k] = (target > middles).sum(0, dtype=np.uint8)
                chosen = np.take_along_axis(entries, codes[k][None].astype(np.intp), 0)[0]
                np.subtract(self._weights[k], chosen, out=errors[k])
        natural = np.empty_like(codes)
        natural[self._order] = codes
        return Codebook(np.ascontiguousarray(natural.T), table, self._bits)


def refit(layer: Layer, book: Codebook) -> Codebook:
    """Return the book with the tables that minimize the output error while the indices stay.

    With C the one-hot indices of a row w, its best table t solves Cᵀ H C t = Cᵀ H w. A row that does not gain (one that
    is solved badly) keeps its table, and so does a table that rows share.
    """
    if layer.gram is None or len(book.table) < len(book.codes):
        return book
    gram: Floats = layer.gram.astype(np.float32)
    entries = int(book.table.shape[1])
    table: Floats = book.table.astype(np.float32)
    rows = max(1, _SOLVED // (len(gram) * entries))
    missing: Floats = np.asarray(layer.weights - book.values(), np.float32)
    for start in range(0, len(table), rows):
        part = slice(start, start + rows)
        table[part] += _corrections(book.codes[part], missing[part], gram, entries)
    better = dataclasses.replace(book, table=table)
    return choose_rows(layer, {"before": book, "after": better}).codebook


def _corrections(codes: Array, missing: Floats, gram: Floats, entries: int) -> Floats:
    """Return what to add to the tables so that they make up for what is missing."""
    hot = (codes[:, :, None] == np.arange(entries, dtype=np.uint8)).astype(np.float32)
    seen = np.matmul(gram, hot)
    normal = np.matmul(hot.transpose(0, 2, 1), seen).astype(np.float64)
    wanted = np.matmul(missing[:, None, :], seen)[:, 0].astype(np.float64)
    level = np.trace(normal, axis1=1, axis2=2)[:, None, None] / entries
    normal += (1e-6 * level + 1e-30) * np.eye(entries)
    return np.asarray(np.linalg.solve(normal, wanted[..., None])[..., 0], np.float32)


def half_tables(book: Codebook) -> Codebook:
    """Return the book with tables in float16, or as it is where they would overflow or lose more than 11 bits."""
    largest = float(np.abs(book.table).max(initial=0.0))
    if not 1e-3 < largest < float(np.finfo(np.float16).max):
        return book
    return dataclasses.replace(book, table=book.table.astype(np.float16))
