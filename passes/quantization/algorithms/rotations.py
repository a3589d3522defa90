"""Orthogonal matrices that spread outliers over all channels.

A Hadamard matrix has entries ±1/√n, so that one channel of size a becomes n channels of size a / √n (Ashkboos et al.,
"QuaRot", 2024); the principal axes of the data put what matters into few channels ("SliceGPT", 2024).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["centering", "hadamard", "principal_axes", "random_orthogonal"]

Floats = NDArray[np.float64]


def random_orthogonal(size: int, rng: np.random.Generator) -> Floats:
    """Return a matrix from the uniform distribution over orthogonal ones."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))


def hadamard(size: int, rng: np.random.Generator) -> Floats:
    """Return an orthogonal Hadamard matrix with random signs; an odd factor of the size is drawn at random."""
    power = size & -size
    matrix = np.ones((1, 1))
    while len(matrix) < power:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    whole = np.kron(random_orthogonal(size // power, rng), matrix / np.sqrt(power))
    signs = rng.choice(np.asarray([-1.0, 1.0]), size)
    return np.asarray(signs[:, None] * whole)


def principal_axes(gram: Floats) -> Floats:
    """Return the eigenvectors of a Gram matrix as columns, the largest eigenvalue first, signs fixed."""
    _, vectors = np.linalg.eigh((gram + gram.T) / 2)
    axes = vectors[:, ::-1]
    largest = axes[np.argmax(np.abs(axes), axis=0), np.arange(axes.shape[1])]
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0))


def centering(size: int) -> Floats:
    """Return I - 1 1ᵀ / n, which subtracts the mean."""
    return np.asarray(np.eye(size) - np.full((size, size), 1.0 / size))
