"""What the remaining weights become: the closed form for a given mask.

For each row, with S the weights that stay and H the second derivative (the Gram matrix of the inputs where the squared
error of the outputs counts),

    w_S = [H_SS]⁻¹ (H w⁰)_S

minimizes (w - w⁰)ᵀ H (w - w⁰) over all w that are zero outside of S. Where the inputs have changed, from x to
x̂, least squares against the original outputs has E[x̂ x̂ᵀ] for H and w⁰ᵀ E[x x̂ᵀ] on the right.
"""

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles, Floats

__all__ = ["damped", "masked_least_squares"]

_DIRECT = 640
"""Inputs up to which rows are solved one by one; beyond, by conjugate gradients."""
_BYTES = 1 << 27
_STEPS, _ENOUGH = 200, 1e-6


def damped(hessian: Doubles, damping: float) -> Doubles:
    """Return H + damping * mean(diag H) * I; inputs that were never seen get the mean itself."""
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    seen = diagonal > 0
    level = np.where(seen, diagonal, 0).sum(-1, keepdims=True) / np.maximum(
        seen.sum(-1, keepdims=True), 1
    )
    level = np.where(level > 0, level, 1.0)
    found = np.array(hessian, np.float64)
    places = np.arange(hessian.shape[-1])
    found[..., places, places] += np.where(seen, damping, 1.0) * level
    return found


def masked_least_squares(
    weights: Array, hessian: Doubles, keep: Array, target: Doubles | None = None
) -> Floats:
    """Return the best weights ``[rows, inputs]`` that are zero where ``keep`` is false.

    ``hessian`` is ``[inputs, inputs]``, or one for each row, positive definite; ``target`` is the right-hand side
    ``[rows, inputs]``, H w⁰ without one.
    """
    wanted: Doubles = weights.astype(np.float64)
    right = _times(hessian, wanted) if target is None else target
    if weights.shape[1] <= _DIRECT:
        found = _direct(hessian, keep, right)
    else:
        found = _conjugate(hessian, keep, right, np.where(keep, wanted, 0.0))
    return np.asarray(np.where(keep, found, 0), np.float32)


def _times(hessian: Doubles, rows: Doubles) -> Doubles:
    return rows @ hessian if hessian.ndim == 2 else np.einsum("rij,rj->ri", hessian, rows)


def _direct(hessian: Doubles, keep: Array, right: Doubles) -> Doubles:
    """Solve rows in batches: what does not stay becomes a row and column of the identity."""
    size = keep.shape[1]
    step = max(1, _BYTES // (8 * size * size))
    found: Doubles = np.zeros(right.shape)
    for start in range(0, len(keep), step):
        part = slice(start, start + step)
        stays = keep[part].astype(np.float64)
        system = (hessian if hessian.ndim == 2 else hessian[part]) * stays[:, :, None]
        system *= stays[:, None, :]
        places = np.arange(size)
        system[:, places, places] += 1.0 - stays
        found[part] = np.linalg.solve(system, (right[part] * stays)[..., None])[..., 0]
    return found


def _conjugate(hessian: Doubles, keep: Array, right: Doubles, start: Doubles) -> Doubles:
    """Run preconditioned conjugate gradients on all rows at once, from the weights as they are."""
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    stays = keep.astype(np.float64)
    x = start
    rest = (right - _times(hessian, x)) * stays
    along = rest / diagonal
    energy = (rest * along).sum(1)
    limit = _ENOUGH**2 * np.maximum(((right * stays) ** 2 / diagonal).sum(1), np.finfo(float).tiny)
    for _ in range(_STEPS):
        if (energy <= limit).all():
            break
        turned = _times(hessian, along) * stays
        length = np.maximum((along * turned).sum(1), np.finfo(float).tiny)
        step = (energy / length)[:, None]
        x = x + step * along
        rest = rest - step * turned
        before, direction = energy, rest / diagonal
        energy = (rest * direction).sum(1)
        along = direction + (energy / np.maximum(before, np.finfo(float).tiny))[:, None] * along
    return x
