"""Gram matrices of output gradients: the G of the Kronecker-factored curvature A ⊗ G (Martens and Grosse 2015).

For y = W x at a site, with A the mean of x xᵀ over all rows and G the sum of g gᵀ over a sample's rows, averaged over
samples, a change of the weights costs about

    ΔL = 1/2 tr(G ΔW A ΔWᵀ)

Rows of one sample are taken for independent.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from whet.analysis.curvature.problem import Problem
from whet.ir.twin import run_observed

__all__ = ["gradient_grams", "predicted_loss"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def gradient_grams(
    problem: Problem, outputs: Mapping[str, int], *, draws: int = 1, seed: int = 0
) -> dict[str, Doubles]:
    """Return G ``[channels, channels]`` for each named value, whose channels lie along the given axis.

    Gradients are those of draws from the model's own output distribution (the true Fisher matrix), all samples of a
    batch at once: a sample's gradient does not depend on the others.
    """
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, Doubles] = {}
    for inputs, _ in problem.batches():
        for _ in range(draws):
            seen: dict[str, torch.Tensor] = {}
            found = run_observed(problem.twin, inputs, {n: _keep(seen, n) for n in outputs})
            value = problem.loss.draws(found, generator).sum()
            slopes = torch.autograd.grad(
                value, list(seen.values()), allow_unused=True, materialize_grads=True
            )
            for name, slope in zip(seen, slopes, strict=True):
                rows = slope.movedim(outputs[name], -1).flatten(0, -2).double()
                totals[name] = totals.get(name, 0.0) + (rows.T @ rows).numpy()
    return {name: total / (problem.count * draws) for name, total in totals.items()}


def predicted_loss(change: Doubles, inputs: Doubles, gradients: Doubles) -> float:
    """Return 1/2 tr(G ΔW A ΔWᵀ) for ΔW ``[outputs, inputs]``."""
    return 0.5 * float(np.vdot(gradients @ change, change @ inputs))


def _keep(seen: dict[str, torch.Tensor], name: str) -> Callable[[torch.Tensor], None]:
    def keep(value: torch.Tensor) -> None:
        seen[name] = value

    return keep
