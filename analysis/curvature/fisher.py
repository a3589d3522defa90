"""The diagonal of the Fisher matrix: mean squared gradients of single samples."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from whet.analysis.curvature.problem import Problem, Vectors

__all__ = ["FisherDiagonal", "fisher_diagonal", "sample_gradients"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Kind = Literal["empirical", "true"]


@dataclasses.dataclass(frozen=True)
class FisherDiagonal:
    """Mean squared gradient for each weight, and how sure that is."""

    mean: dict[str, Doubles]
    error: dict[str, Doubles]
    """Standard error of the mean, over samples."""
    samples: int


def sample_gradients(
    problem: Problem, kind: Kind = "true", *, draws: int = 1, seed: int = 0
) -> Iterator[Vectors]:
    """Yield gradients of single samples.

    ``empirical``: of the loss itself (it needs labels: at the model's own outputs these are zero). ``true``: of labels
    or values drawn from the model's own output distribution, ``draws`` for each sample.
    """
    generator = torch.Generator().manual_seed(seed)
    for inputs, labels in problem.samples():
        for _ in range(1 if kind == "empirical" else draws):
            outputs = problem.twin(*inputs)
            if kind == "empirical":
                value = problem.loss.values(outputs, labels)
            else:
                value = problem.loss.draws(outputs, generator)
            yield problem.gradient(value.sum())


def fisher_diagonal(
    problem: Problem, kind: Kind = "true", *, draws: int = 1, seed: int = 0
) -> FisherDiagonal:
    """Return E[g²] over samples; see :func:`sample_gradients` for the two kinds."""
    first: dict[str, Doubles] = {n: np.zeros(tuple(w.shape)) for n, w in problem.weights.items()}
    second = {name: np.zeros_like(zeros) for name, zeros in first.items()}
    count = 0
    for gradient in sample_gradients(problem, kind, draws=draws, seed=seed):
        count += 1
        for name, part in gradient.items():
            squared: Doubles = part.detach().double().square().numpy()
            first[name] += squared
            second[name] += np.square(squared)
    mean = {name: total / max(count, 1) for name, total in first.items()}
    error = {
        name: np.sqrt(
            np.maximum(second[name] / max(count, 1) - np.square(m), 0) / max(count - 1, 1)
        )
        for name, m in mean.items()
    }
    return FisherDiagonal(mean, error, count)
