"""The inverse of a Gram matrix, as far as rounding asks for it."""

import numpy as np
import scipy.linalg

from whet.passes.quantization.algorithms.approximation import Doubles

__all__ = ["inverse_diagonal"]

_DAMPING = 0.01
_LARGEST = 1e4


def inverse_diagonal(gram: Doubles, damping: float = _DAMPING) -> Doubles:
    """Return the diagonal of (H + damping * mean(diag H) * I)⁻¹: 1 / [H⁻¹]_ii is what an error of input i costs

    when all other weights make up for it (Hassibi & Stork, Optimal Brain Surgeon, 1993). Inputs that are always zero
    are taken as independent ones. Damping is raised tenfold until H is positive definite; raises ValueError where that
    does not help.
    """
    dead = np.diagonal(gram) <= 0
    level = float(np.diagonal(gram)[~dead].mean()) if not dead.all() else 1.0
    while damping <= _LARGEST:
        damped = gram + np.diag(np.where(dead, level, damping * level))
        try:
            lower = scipy.linalg.cholesky(damped, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        inverse = scipy.linalg.solve_triangular(lower, np.eye(len(gram)), lower=True)
        return np.asarray((inverse**2).sum(0))
    raise ValueError(f"the Gram matrix is not positive semidefinite, even with damping {damping:g}")
