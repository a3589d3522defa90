"""Functions of a position's features: products of pairs and waves of random frequency, all of them cheap in a graph."""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BASES", "Basis", "BasisKind", "Doubles", "fit_basis"]

Doubles = npt.NDArray[np.float64]

BasisKind = Literal["linear", "products", "waves"]
BASES: tuple[BasisKind, ...] = ("linear", "products", "waves")

_WIDEST = 64
"""At most so many principal components are used."""
_ALL_PRODUCTS = 12
"""Up to so many components, every product of two is a function; beyond that, squares only."""
_FEW = 8
"""Up to so many components, waves come with products."""
_WAVES = 96
_BANDS = (0.35, 0.7, 1.4)
"""Frequencies of the waves, in units of the spread of the features."""
_CONSTANT = 1e-6
"""A feature whose deviation is below this share of its size does not vary."""
_FLAT = 1e-8
"""A component with less than this share of the largest variance is no more than rounding."""


@dataclasses.dataclass(frozen=True)
class Basis:
    """``phi(x) = [z, z_i z_j, cos(z F + p), 1]`` with ``z = (x - mean) P``: features of unit spread, then functions."""

    mean: Doubles
    """``[c]``."""
    projection: Doubles
    """P, ``[c, k]``."""
    pairs: npt.NDArray[np.int64]
    """``[2, t]``: which two of z each product is made of."""
    frequencies: Doubles
    """F, ``[k, w]``."""
    phases: Doubles
    """p, ``[w]``."""

    @property
    def width(self) -> int:
        """Return the number of functions."""
        return int(self.projection.shape[1] + self.pairs.shape[1] + len(self.phases) + 1)

    def project(self, x: Doubles) -> Doubles:
        """Return z for features ``[..., c]``."""
        return (x.astype(np.float64) - self.mean) @ self.projection

    def expand(self, z: Doubles) -> Doubles:
        """Return phi for projected features ``[..., k]``."""
        products = z[..., self.pairs[0]] * z[..., self.pairs[1]]
        waves = np.cos(z @ self.frequencies + self.phases)
        return np.concatenate([z, products, waves, np.ones_like(z[..., :1])], axis=-1)


def fit_basis(x: Doubles, kind: BasisKind, seed: int = 0) -> Basis:
    """Return the functions of one kind for features ``[samples, positions, c]``; the same seed gives the same ones."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    varies = deviation > _CONSTANT * (np.abs(mean) + 1e-30)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    directions, spread = _components((rows - mean) * scale)
    count = len(spread)
    few = kind == "products" or (kind == "waves" and count <= _FEW)
    waves = _WAVES if kind == "waves" else 0
    rng = np.random.default_rng((seed, 1))
    bands = np.resize(np.asarray(_BANDS), waves)
    frequencies = spread[:, None] * rng.standard_normal((count, waves)) * bands
    return Basis(
        mean=mean,
        projection=scale[:, None] * directions / spread,
        pairs=_pairs(count) if few else np.zeros((2, 0), np.int64),
        frequencies=frequencies / np.sqrt(np.square(spread).sum()),
        phases=rng.uniform(0, 2 * np.pi, waves),
    )


def _components(z: Doubles) -> tuple[Doubles, Doubles]:
    """Return the directions of the largest variance and the deviation along each."""
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    order = np.argsort(values)[::-1][:_WIDEST]
    kept = order[values[order] > _FLAT * max(values[-1], 1e-300)]
    if not len(kept):
        kept = order[:1]
        values = np.ones_like(values)
    return vectors[:, kept], np.sqrt(values[kept])


def _pairs(count: int) -> npt.NDArray[np.int64]:
    if count > _ALL_PRODUCTS:
        return np.tile(np.arange(count), (2, 1))
    return np.stack(np.triu_indices(count))
