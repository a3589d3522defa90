"""Train perceptrons on top of least-squares factors, so that the output of the attention comes closer."""

import dataclasses
import importlib.util
import math
from typing import TYPE_CHECKING

import numpy as np

from whet.passes.attention.feature_basis import Doubles
from whet.passes.attention.fit_factors import FactorFunction, Fit, PairData, Perceptron

if TYPE_CHECKING:
    import torch

__all__ = ["can_refine", "refine"]

_RATE = 1e-3
_LOOK = 20
"""Steps between two looks at the samples that say when to stop."""
_PATIENCE = 16
_PAIRS = 1 << 21
"""Scores of one step; more queries than fit are drawn at random."""


def can_refine() -> bool:
    """Tell whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def refine(
    fit: Fit, train: PairData, check: PairData, *, hidden: int, steps: int, seed: int
) -> Fit:
    """Return ``fit`` with perceptrons of one hidden layer added, or as it is where they do not help on ``check``.

    Adam on ``||softmax(scores + u v') values - output||^2 / ||output||^2``, from the least-squares factors on, which
    are trained along. The same seed gives the same result on the same machine and number of threads.
    """
    import torch

    rng = np.random.default_rng((seed, 2))
    sides = [_Side.of(f, x, hidden, rng) for f, x in ((fit.query, train.x), (fit.key, train.y))]
    parameters = [p for side in sides for p in side.parameters]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    task = _Task.of(train)
    best, waited = fit, 0
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        optimizer.zero_grad()
        loss = task.loss(sides[0], sides[1], rng)
        torch.autograd.backward(loss)
        optimizer.step()
        if step % _LOOK and step != steps:
            continue
        found = _measured(sides, fit, train, check)
        better = found.check_error < best.check_error
        best, waited = (found, 0) if better else (best, waited + 1)
        if waited >= _PATIENCE:
            break
    return best


def _measured(sides: "list[_Side]", fit: Fit, train: PairData, check: PairData) -> Fit:
    query, key = (s.function(f) for s, f in zip(sides, (fit.query, fit.key), strict=True))
    return Fit(query, key, math.inf, math.inf).measured(train, check)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One factor while it is trained."""

    z: "torch.Tensor"
    phi: "torch.Tensor"
    flat: "torch.Tensor"
    inner: "torch.Tensor"
    shift: "torch.Tensor"
    outer: "torch.Tensor"
    heads: int
    rank: int

    @classmethod
    def of(
        cls, start: FactorFunction, x: Doubles, hidden: int, rng: np.random.Generator
    ) -> "_Side":
        """Begin where least squares ended: the outer layer is zero."""
        z = start.basis.project(x)
        width, columns = z.shape[-1], start.heads * start.rank
        inner = rng.standard_normal((width, hidden)) / math.sqrt(width)
        zeros = np.zeros((hidden, columns))
        return cls(
            z=_tensor(z),
            phi=_tensor(start.basis.expand(z)),
            flat=_leaf(start.flat),
            inner=_leaf(inner),
            shift=_leaf(np.zeros(hidden)),
            outer=_leaf(zeros),
            heads=start.heads,
            rank=start.rank,
        )

    @property
    def parameters(self) -> "list[torch.Tensor]":
        """Return what is trained."""
        return [self.flat, self.inner, self.shift, self.outer]

    def factor(self, samples: "torch.Tensor", rows: "torch.Tensor | None") -> "torch.Tensor":
        """Return ``[samples, heads, rows, rank]``."""
        import torch

        z, phi = self.z[samples], self.phi[samples]
        if rows is not None:
            z, phi = z[:, rows], phi[:, rows]
        inner = torch.nn.functional.gelu(z @ self.inner + self.shift)
        columns = phi @ self.flat + inner @ self.outer
        return columns.reshape(*columns.shape[:2], self.heads, self.rank).transpose(1, 2)

    def function(self, start: FactorFunction) -> FactorFunction:
        """Return what is learned so far."""
        flat, *layers = (p.detach().double().numpy().copy() for p in self.parameters)
        weights = flat.reshape(len(flat), self.heads, self.rank).transpose(1, 0, 2)
        return FactorFunction(start.basis, weights, Perceptron(*layers))


@dataclasses.dataclass(frozen=True)
class _Task:
    """What the output should be."""

    scores: "torch.Tensor"
    values: "torch.Tensor"
    output: "torch.Tensor"
    size: float

    @classmethod
    def of(cls, data: PairData) -> "_Task":
        """Prepare the samples."""
        output = data.output(data.bias)
        size = float(np.square(output).mean())
        hidden = np.maximum(data.scores, -1e9)
        return cls(_tensor(hidden), _tensor(data.values), _tensor(output), max(size, 1e-30))

    def loss(self, query: _Side, key: _Side, rng: np.random.Generator) -> "torch.Tensor":
        """Return the mean squared error of some rows of one or more samples."""
        import torch

        count, heads, queries, keys = self.scores.shape
        budget = max(1, _PAIRS // (heads * keys))
        taken = rng.permutation(count)[: max(1, min(4, count, budget // queries))]
        chosen = torch.from_numpy(taken)
        scores, output = self.scores[chosen], self.output[chosen]
        rows: torch.Tensor | None = None
        if budget < queries:
            rows = torch.from_numpy(np.sort(rng.permutation(queries)[:budget]))
            scores, output = scores[:, :, rows], output[:, :, rows]
        left, right = query.factor(chosen, rows), key.factor(chosen, None)
        weights = torch.softmax(scores + left @ right.transpose(-1, -2), -1)
        return (weights @ self.values[chosen] - output).square().mean() / self.size


def _tensor(array: Doubles) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _leaf(array: Doubles) -> "torch.Tensor":
    return _tensor(array).clone().requires_grad_()
