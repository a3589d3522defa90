"""Inverse Fisher times a vector without the matrix (M-FAC; Frantar, Kurtic, Alistarh 2021).

The damped empirical Fisher matrix of m gradients g_1 … g_m of d weights is

    F = damping I + (1 / m) sum_i g_i g_iᵀ

It is never formed: both algorithms keep O(d m) numbers.
"""

import numpy as np
import scipy.linalg

from whet.ir.array import Array

__all__ = ["GradientWindow", "InverseFisher"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class InverseFisher:
    """The static algorithm: all gradients are there; products and the diagonal cost O(d m) each.

    By Sherman and Morrison, with F_0 = damping I and v_i = F_{i-1}⁻¹ g_i, q_i = m + g_iᵀ v_i:

        F⁻¹ x = x / damping - sum_i v_i (v_iᵀ x) / q_i

    Making the v_i takes O(d m²) time.
    """

    def __init__(self, gradients: Array, damping: float) -> None:
        """Take ``[m, d]`` gradients; raises ValueError for a damping that is not positive, or no gradient."""
        if damping <= 0:
            raise ValueError(f"the damping is {damping:g}, it must be positive")
        if gradients.ndim != 2 or not len(gradients):
            raise ValueError(f"gradients have shape {gradients.shape}, not [m, d] with m > 0")
        self.damping = damping
        count = len(gradients)
        self._directions: Doubles = gradients.astype(np.float64) / damping
        self._sizes: Doubles = np.empty(count)
        for i, gradient in enumerate(gradients.astype(np.float64)):
            earlier = self._directions[:i]
            self._directions[i] -= ((earlier @ gradient) / self._sizes[:i]) @ earlier
            self._sizes[i] = count + gradient @ self._directions[i]

    def times(self, vectors: Array) -> Doubles:
        """Return F⁻¹ x for ``x`` of shape ``[d]`` or ``[k, d]``."""
        x: Doubles = vectors.astype(np.float64)
        inner: Doubles = (x @ self._directions.T) / self._sizes
        return np.asarray(x / self.damping - inner @ self._directions)

    def diagonal(self) -> Doubles:
        """Return the diagonal of F⁻¹, ``[d]``."""
        taken: Doubles = np.einsum(
            "md,md,m->d", self._directions, self._directions, 1.0 / self._sizes
        )
        return np.asarray(1.0 / self.damping - taken)

    @property
    def nbytes(self) -> int:
        """Return what is kept in memory."""
        return self._directions.nbytes + self._sizes.nbytes


class GradientWindow:
    """The dynamic algorithm: the last m gradients count, a new one replaces the oldest.

    By Woodbury, with the gradients as rows of G and S = m damping I + G Gᵀ (m x m):

        F⁻¹ x = (x - Gᵀ S⁻¹ G x) / damping

    A new gradient costs O(d m) for its row of G Gᵀ and O(m³) for the Cholesky factor of S, a product O(d m + m²). The
    paper reaches the same costs by a triangular recursion.
    """

    def __init__(self, size: int, dimension: int, damping: float) -> None:
        """Start without gradients: until the window is full, m is the number of those seen."""
        if damping <= 0 or size < 1:
            raise ValueError(f"damping {damping:g} and window {size} must be positive")
        self.damping = damping
        self._rows: Doubles = np.zeros((size, dimension))
        self._products: Doubles = np.zeros((size, size))
        self._seen = 0
        self._factor: tuple[Array, bool] | None = None

    def __len__(self) -> int:
        """Return how many gradients count."""
        return min(self._seen, len(self._rows))

    def add(self, gradient: Array) -> None:
        """Take in a gradient ``[d]``, in place of the oldest if the window is full."""
        place = self._seen % len(self._rows)
        self._rows[place] = gradient
        row: Doubles = self._rows @ self._rows[place]
        self._products[place, :] = row
        self._products[:, place] = row
        self._seen += 1
        self._factor = None

    def times(self, vector: Array) -> Doubles:
        """Return F⁻¹ x for ``x`` of shape ``[d]``."""
        x: Doubles = vector.astype(np.float64)
        count = len(self)
        if not count:
            return np.asarray(x / self.damping)
        if self._factor is None:
            system: Doubles = self._products[:count, :count] + count * self.damping * np.eye(count)
            self._factor = scipy.linalg.cho_factor(system)
        rows = self._rows[:count]
        inner: Doubles = np.asarray(scipy.linalg.cho_solve(self._factor, rows @ x))
        return np.asarray((x - inner @ rows) / self.damping)

    @property
    def nbytes(self) -> int:
        """Return what is kept in memory."""
        return self._rows.nbytes + self._products.nbytes
