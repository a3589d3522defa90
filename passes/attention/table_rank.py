"""The rank at which a bias table is replaced: by energy, and by what the output of its attention loses."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from whet.errors import Mismatch
from whet.passes.attention.call import AttentionSizes
from whet.passes.attention.low_rank import (
    Factors,
    Real,
    Sample,
    Spectrum,
    decompose,
    smallest_rank,
)
from whet.passes.kernels import noise

__all__ = ["Request", "TableFactors", "energy_lost", "factor_table"]

_ROWS = 256
"""Queries on which the error of a rank is measured."""
_SAMPLES = 4
_SHOWN = 129
"""Ranks of a spectrum that are reported."""
_MARGIN = 0.75
"""Random operands are others when the rewrite is proven: ranks are chosen for that share of the error."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of the factors."""

    energy: float
    rank: int
    """The rank; 0 leaves it to the energy and the error."""
    error: float
    any_rank: bool
    """Also where the factors are no smaller than the table."""


@dataclasses.dataclass
class TableFactors:
    """Factors tables as requested; equal tables are decomposed once."""

    request: Request
    _spectra: dict[object, Spectrum] = dataclasses.field(default_factory=dict[object, Spectrum])

    def spectrum(self, table: Real) -> Spectrum:
        """Return the spectrum of ``[..., n, m]``, with as many triples as can be of use."""
        key = table.shape, hashlib.sha256(np.ascontiguousarray(table).tobytes()).digest()
        if key not in self._spectra:
            n, m = table.shape[-2:]
            useful = min(n, m) if self.request.any_rank else max(1, n * m // (n + m))
            energy = 1.0 if self.request.rank else self.request.energy
            self._spectra[key] = decompose(table, energy, min(useful, self.request.rank or useful))
        return self._spectra[key]


def energy_lost(made: TableFactors, table: Real, sizes: AttentionSizes) -> tuple[float, ...]:
    """Return the share of the energy that is lost at rank 0, 1, …, of the head that loses most."""
    group = sizes.heads // sizes.key_heads if table.shape[1] == sizes.heads else 1
    lost = made.spectrum(_stack(table, group)).lost
    whole = np.where(lost[..., :1] > 0, lost[..., :1], 1.0)
    shares = (lost / whole).reshape(-1, lost.shape[-1]).max(axis=0)
    return tuple(float(share) for share in np.maximum(shares[:_SHOWN], 0.0))


def factor_table(
    made: TableFactors, table: Real, sizes: AttentionSizes, operands: Sequence[Real], scale: float
) -> Factors:
    """Return ``left [period, heads or 1, n, r]`` and ``right [period, key heads or 1, m, r]`` of a table.

    ``operands`` are real q, k and v; random ones stand in for them. Raises Mismatch if no rank will do.
    """
    group = sizes.heads // sizes.key_heads if table.shape[1] == sizes.heads else 1
    stacked = _stack(table, group)
    spectrum = made.spectrum(stacked)
    rank = _by_energy(spectrum, stacked, made.request)
    if not made.request.rank and made.request.energy < 1:
        trial = _trial(
            stacked, spectrum, table.shape, sizes, _operands(table, sizes, operands), scale
        )
        error = made.request.error * (1.0 if operands else _MARGIN)
        rank = trial.smallest(error, rank)
    found = spectrum.factors(rank)
    return dataclasses.replace(found, left=found.left.reshape(*table.shape[:3], rank))


def _stack(table: Real, group: int) -> Real:
    """Put the heads that share a key head below one another: their factors must share the side of the keys."""
    period, heads, n, m = table.shape
    return table.reshape(period, heads // group, group * n, m)


def _by_energy(spectrum: Spectrum, table: Real, request: Request) -> int:
    if request.rank:
        return min(request.rank, spectrum.largest)
    rank = spectrum.rank(request.energy)
    if rank is None:
        size = " x ".join(str(d) for d in table.shape[-2:])
        raise Mismatch(
            f"rank {spectrum.largest} of a table of {size} keeps "
            f"{spectrum.factors(spectrum.largest).energy:.3g} of its energy, {request.energy:g} is asked for; with a "
            "greater rank the factors are larger than the table: no gain"
        )
    if rank == 0:
        raise Mismatch("every row of the table is constant, which no softmax sees")
    return rank


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Some rows of a table, their spectrum, and operands to try ranks on."""

    table: Real
    spectrum: Spectrum
    sample: Sample

    def smallest(self, error: float, start: int) -> int:
        """Return the smallest rank from ``start`` on that keeps the error of the output."""
        found = smallest_rank(self.table, self.spectrum, self.sample, error, start)
        if found is None:
            raise Mismatch(
                f"at rank {self.spectrum.largest}, above which nothing is gained, the output still changes "
                f"by more than {error:g}"
            )
        return found


def _operands(table: Real, sizes: AttentionSizes, real: Sequence[Real]) -> tuple[Real, Real, Real]:
    """Return real q, k, v if there are any, else random ones as long as the table."""
    if real:
        q, k, v = real
        return q, k, v
    batch = min(max(sizes.batch, len(table)), _SAMPLES)
    queries = table.shape[2] if table.shape[2] > 1 else sizes.queries
    keys = batch, sizes.key_heads, table.shape[3]
    shapes = (
        (batch, sizes.heads, queries, sizes.head),
        (*keys, sizes.head),
        (*keys, sizes.value_head),
    )
    q, k, v = (noise(shape, seed).astype(np.float32) for seed, shape in enumerate(shapes))
    return q, k, v


def _trial(
    stacked: Real,
    spectrum: Spectrum,
    shape: tuple[int, ...],
    sizes: AttentionSizes,
    operands: tuple[Real, Real, Real],
    scale: float,
) -> _Trial:
    q, k, v = operands
    count = min(len(stacked), len(q), _SAMPLES)
    samples = count if len(stacked) > 1 else min(len(q), _SAMPLES)
    group = shape[1] // stacked.shape[1]
    rows = np.unique(np.linspace(0, q.shape[2] - 1, _ROWS).astype(np.int64))
    of_table = rows if shape[2] > 1 else np.zeros_like(rows)
    places = np.concatenate([shape[2] * member + of_table for member in range(group)])
    q, k, v = q[:samples, :, rows], k[:samples], v[:samples]
    if group > 1:
        q = q.reshape(samples, sizes.key_heads, -1, q.shape[-1])
    else:
        k, v = (np.repeat(x, sizes.heads // sizes.key_heads, axis=1) for x in (k, v))
    columns = k.shape[2]
    return _Trial(
        stacked[:count, :, places, :columns],
        spectrum.part(count, places, columns),
        Sample(q, k, v, scale),
    )
