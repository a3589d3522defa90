"""Low-rank factors of a bias table.

A softmax cannot tell ``B`` from ``B + c 1'``: a constant per query moves all scores of a row alike. Over all ``c`` and
all matrices X of rank r, ``||B - c 1' - X||`` is least for the row means c and the truncated singular value
decomposition of what remains (X may be taken orthogonal to 1, so c and X do not compete). Energies below are shares of
the squared Frobenius norm *after* the row means are gone.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Factors",
    "Real",
    "Sample",
    "Spectrum",
    "attend",
    "center",
    "decompose",
    "factor",
    "output_error",
    "smallest_rank",
]

Real = npt.NDArray[np.floating[Any]]

_EXACT = 1e-12
"""The share of the energy, above full rank's zero, that float32 cannot hold anyway: a residual of 1e-6 of the norm."""
_DIRECT = 512
"""Matrices with fewer rows or columns are decomposed completely."""
_POWERS = 4


@dataclasses.dataclass(frozen=True)
class Factors:
    """``table ~ left right'`` with ``left [..., n, rank]`` and ``right [..., m, rank]``, in float32."""

    left: Real
    right: Real
    energy: float
    """The smallest share, over the matrices, of the energy that is kept."""

    @property
    def rank(self) -> int:
        """Return the rank that all matrices share."""
        return int(self.left.shape[-1])

    def product(self) -> Real:
        """Return ``left right'`` in float64."""
        right = self.right.astype(np.float64)
        return np.asarray(self.left.astype(np.float64) @ np.swapaxes(right, -1, -2))


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Leading singular triples of every matrix of a centered table, in float64."""

    u: Real
    """``[..., n, k]``."""
    s: Real
    """``[..., k]``, falling."""
    v: Real
    """``[..., m, k]``."""
    lost: Real
    """``[..., k + 1]``: the energy (squared Frobenius norm) that is lost at rank 0, 1, …, k."""

    @property
    def largest(self) -> int:
        """Return the largest rank there are triples for."""
        return int(self.s.shape[-1])

    def rank(self, energy: float) -> int | None:
        """Return the smallest rank at which every matrix keeps ``energy``; None if more triples would be needed.

        An energy of one stands for all that float32 can hold. Rank zero says that the rows are constant.
        """
        allowed = max(1.0 - energy, _EXACT) * self.lost[..., :1]
        enough = (self.lost <= allowed).reshape(-1, self.largest + 1).all(axis=0)
        found = np.flatnonzero(enough)
        return int(found[0]) if found.size else None

    def factors(self, rank: int) -> Factors:
        """Return balanced factors: the square roots of the singular values go to both sides."""
        root = np.sqrt(self.s[..., None, :rank])
        total = np.where(self.lost[..., 0] > 0, self.lost[..., 0], 1.0)
        return Factors(
            (self.u[..., :rank] * root).astype(np.float32),
            (self.v[..., :rank] * root).astype(np.float32),
            float(1.0 - (self.lost[..., rank] / total).max()),
        )

    def part(self, matrices: int, rows: npt.NDArray[np.int64], columns: int) -> "Spectrum":
        """Return what belongs to some rows of the first matrices, and to the first columns."""
        return dataclasses.replace(
            self,
            u=self.u[:matrices, ..., rows, :],
            s=self.s[:matrices],
            v=self.v[:matrices, ..., :columns, :],
            lost=self.lost[:matrices],
        )


@dataclasses.dataclass(frozen=True)
class Sample:
    """Operands on which an error is measured: q ``[..., n, d]``, k ``[..., m, d]``, v ``[..., m, e]``."""

    q: Real
    k: Real
    v: Real
    scale: float


def center(table: Real) -> Real:
    """Subtract from every row its mean, in float64; attention with the result is the same."""
    wide = table.astype(np.float64)
    return np.asarray(wide - wide.mean(axis=-1, keepdims=True))


def decompose(table: Real, energy: float = 1.0, limit: int | None = None) -> Spectrum:
    """Decompose the centered matrices ``[..., n, m]``, with at most ``limit`` triples.

    Large matrices get no more triples than it takes to hold ``energy``, by projecting on the range of a random product.
    """
    centered = center(table)
    full = min(centered.shape[-2:])
    most = full if limit is None else min(limit, full)
    count = 32
    while full > _DIRECT and 3 * count < full:
        found = _leading(centered, min(count, most))
        if count >= most or found.rank(energy) is not None:
            return found
        count *= 2
    u, s, vh = np.linalg.svd(centered, full_matrices=False)
    tails = np.cumsum((s**2)[..., ::-1], axis=-1)[..., ::-1]
    lost = np.concatenate([tails, np.zeros_like(tails[..., :1])], axis=-1)
    v = np.swapaxes(vh, -1, -2)
    return Spectrum(u[..., :most], s[..., :most], v[..., :most], lost[..., : most + 1])


def _leading(matrices: Real, count: int) -> Spectrum:
    """Return leading triples by randomized subspace iteration (Halko, Martinsson and Tropp, 2011)."""
    rng = np.random.default_rng(0)
    transposed = np.swapaxes(matrices, -1, -2)
    width = min(count + 10, *matrices.shape[-2:])
    basis = matrices @ rng.standard_normal((matrices.shape[-1], width))
    for _ in range(_POWERS):
        basis = np.linalg.qr(basis)[0]
        basis = matrices @ np.linalg.qr(transposed @ basis)[0]
    basis = np.linalg.qr(basis)[0]
    u, s, vh = np.linalg.svd(np.swapaxes(basis, -1, -2) @ matrices, full_matrices=False)
    total = (matrices**2).sum(axis=(-2, -1))[..., None]
    lost = np.concatenate([total, np.maximum(total - np.cumsum(s**2, axis=-1), 0.0)], axis=-1)
    v = np.swapaxes(vh, -1, -2)
    return Spectrum(
        (basis @ u)[..., :count], s[..., :count], v[..., :count], lost[..., : count + 1]
    )


def factor(table: Real, *, rank: int = 0, energy: float = 1.0) -> Factors:
    """Return factors of ``[..., n, m]`` up to a constant per row: of ``rank``, or the least that keeps ``energy``."""
    spectrum = decompose(table, energy, rank or None)
    wanted = min(rank, spectrum.largest) if rank else spectrum.rank(energy)
    return spectrum.factors(spectrum.largest if wanted is None else wanted)


def attend(sample: Sample, bias: Real) -> Real:
    """Return ``softmax(scale q k' + bias) v`` in float64; rows in which every key is masked are zero."""
    q, k, v = (x.astype(np.float64) for x in (sample.q, sample.k, sample.v))
    scores = sample.scale * q @ np.swapaxes(k, -1, -2) + bias
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
    sums = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(sums > 0, sums, 1.0) @ v)


def output_error(table: Real, factors: Factors, sample: Sample) -> float:
    """Return ``||y' - y|| / ||y||`` of the attention's output on ``sample``."""
    expected = attend(sample, table.astype(np.float64))
    found = attend(sample, factors.product())
    length = float(np.linalg.norm(expected))
    distance = float(np.linalg.norm(found - expected))
    return distance / length if length > 0 else distance


def smallest_rank(
    table: Real, spectrum: Spectrum, sample: Sample, bound: float, start: int = 1
) -> int | None:
    """Return the smallest rank from ``start`` on whose output error is at most ``bound``; None if there is none.

    The error is taken to fall with the rank; the rank that is returned was measured.
    """

    def fits(rank: int) -> bool:
        return output_error(table, spectrum.factors(rank), sample) <= bound

    low, high = start, spectrum.largest
    if low > high or fits(low):
        return low if low <= high else None
    if not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
