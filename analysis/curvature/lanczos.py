"""The largest eigenvalue of the Hessian by Lanczos' method (HAWQ, Dong et al. 2019, by the slower power iteration)."""

import dataclasses

import numpy as np
import scipy.linalg
import torch

from whet.analysis.curvature.problem import Problem, Vectors

__all__ = ["Eigenvalue", "top_eigenvalue"]


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue and how well it is known."""

    value: float
    residual: float
    """||H v - value v|| for the unit vector v that was found: some eigenvalue is at most so far away."""
    steps: int


def top_eigenvalue(
    problem: Problem,
    weight: str | None = None,
    steps: int = 30,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Eigenvalue:
    """Return the eigenvalue of largest magnitude, of one weight's diagonal block or (None) of all weights together.

    Stops when the residual is below ``tolerance`` times the eigenvalue. Basis vectors are kept and orthogonalized
    twice: memory is steps times the number of weights.
    """
    names = list(problem.weights) if weight is None else [weight]
    generator = torch.Generator().manual_seed(seed)
    sizes = [problem.weights[name].numel() for name in names]
    start = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    found = Eigenvalue(0.0, float("inf"), 0)
    for step in range(1, min(steps, sum(sizes)) + 1):
        product = _times(problem, names, basis[-1])
        diagonal.append(float(product @ basis[-1]))
        for _ in range(2):
            for vector in basis:
                product -= (product @ vector) * vector
        left = float(product.norm())
        values, vectors = scipy.linalg.eigh_tridiagonal(np.asarray(diagonal), np.asarray(beside))
        top = int(np.argmax(np.abs(values)))
        found = Eigenvalue(float(values[top]), left * abs(float(vectors[-1, top])), step)
        if found.residual <= tolerance * abs(found.value) or left == 0.0:
            break
        beside.append(left)
        basis.append(product / left)
    return found


def _times(problem: Problem, names: list[str], vector: torch.Tensor) -> torch.Tensor:
    """Return H v as one long vector; weights that are not named count as fixed."""
    parts = torch.split(vector, [problem.weights[name].numel() for name in names])
    shaped: Vectors = {
        name: part.reshape(problem.weights[name].shape).to(problem.weights[name].dtype)
        for name, part in zip(names, parts, strict=True)
    }
    (product,) = problem.hessian_times([shaped])
    return torch.cat([product[name].reshape(-1).double() for name in names])
