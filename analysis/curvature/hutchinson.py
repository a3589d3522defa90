"""Stochastic traces and diagonals of the Hessian from its products with random signs (Hutchinson 1989).

With v of independent signs, E[v * H v] is the diagonal of H and E[vᵀ H v] its trace. HAWQ-V2 (Dong et al. 2020) takes
the traces of layers; AdaHessian (Yao et al. 2021) the diagonal, averaged over small blocks whose values it takes for
equal.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from whet.analysis.curvature.problem import Problem, Vectors

__all__ = ["Diagonal", "Trace", "block_means", "hessian_diagonal", "hessian_traces"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_TOGETHER = 8
"""Probes that share one backward pass; each holds a copy of the weights."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """The trace of one weight's diagonal block of H."""

    value: float
    error: float
    """Standard error over probes."""
    size: int
    """How many weights the block has: value / size is the mean eigenvalue."""


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """The diagonal of H for one weight, shaped like it."""

    value: Doubles
    error: Doubles
    """Standard error over probes."""


def hessian_traces(problem: Problem, probes: int = 64, seed: int = 0) -> dict[str, Trace]:
    """Return the trace for each weight, from ``probes`` products with the Hessian of the mean loss."""
    found: dict[str, list[float]] = {name: [] for name in problem.weights}
    for signs, product in _products(problem, probes, seed):
        for name, values in found.items():
            values.append(float((signs[name] * product[name]).sum(dtype=torch.float64)))
    return {
        name: Trace(
            float(np.mean(v)), _standard_error(np.asarray(v)), problem.weights[name].numel()
        )
        for name, v in found.items()
    }


def hessian_diagonal(
    problem: Problem, probes: int = 64, seed: int = 0, block: int = 1
) -> dict[str, Diagonal]:
    """Return the diagonal for each weight; with ``block``, averaged over runs of so many weights of a row.

    A convolution's kernel is one run whatever its size, if ``block`` is above 1.
    """
    shapes = {name: tuple(w.shape) for name, w in problem.weights.items()}
    first: dict[str, Doubles] = {name: np.zeros(shape) for name, shape in shapes.items()}
    second: dict[str, Doubles] = {name: np.zeros(shape) for name, shape in shapes.items()}
    for signs, product in _products(problem, probes, seed):
        for name in shapes:
            sample = block_means((signs[name] * product[name]).double().numpy(), block)
            first[name] += sample
            second[name] += np.square(sample)
    found: dict[str, Diagonal] = {}
    for name in shapes:
        mean = first[name] / probes
        spread = np.maximum(second[name] / probes - np.square(mean), 0)
        found[name] = Diagonal(mean, np.sqrt(spread / max(probes - 1, 1)))
    return found


def block_means(values: Doubles, block: int) -> Doubles:
    """Replace each run of ``block`` values along the last axis by its mean; kernels ``[o, i, …]`` are one run each."""
    if block <= 1 or values.ndim < 2:
        return values
    if values.ndim > 2:
        axes = tuple(range(2, values.ndim))
        return np.broadcast_to(values.mean(axes, keepdims=True), values.shape).copy()
    width = values.shape[1]
    starts = np.arange(0, width, block)
    sizes = np.diff(np.append(starts, width))
    means: Doubles = np.add.reduceat(values, starts, axis=1) / sizes
    return np.repeat(means, sizes, axis=1)


def _products(problem: Problem, probes: int, seed: int) -> Iterator[tuple[Vectors, Vectors]]:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, probes, _TOGETHER):
        signs = [_signs(problem, generator) for _ in range(min(_TOGETHER, probes - start))]
        yield from zip(signs, problem.hessian_times(signs), strict=True)


def _signs(problem: Problem, generator: torch.Generator) -> Vectors:
    return {
        name: torch.randint(0, 2, w.shape, generator=generator).to(w.dtype) * 2 - 1
        for name, w in problem.weights.items()
    }


def _standard_error(values: Doubles) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
