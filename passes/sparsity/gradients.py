"""Gradients of the model's own loss in its weights, a few thousand of them, through the twin."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir

from whet.errors import Mismatch, WhetError
from whet.ir.values import Array

if TYPE_CHECKING:
    import torch

__all__ = ["Likelihood", "loss_gradients"]

Feeds = Mapping[str, Array]
Likelihood = Literal["categorical", "gaussian"]
_TOGETHER = 2
"""Samples whose draws are added up: their products vanish in the mean, so one backward pass sees all of them."""


def loss_gradients(
    model: onnx_ir.Model,
    names: Sequence[str],
    batches: Sequence[Feeds],
    count: int,
    likelihood: Likelihood,
    seed: int,
) -> Iterator[tuple[dict[str, Array], int]]:
    """Yield ``count`` gradients by weight, and how many samples each is the sum over.

    E[g gᵀ] over draws is the Gauss-Newton matrix (the true Fisher matrix) of KL divergence to the model as it is where
    the first output are logits (``categorical``), of half the squared relative distance of the outputs with
    ``gaussian``. Data are gone through again when they end. Raises Mismatch without data, torch or twin.
    """
    if not batches:
        raise Mismatch("gradients need calibration data")
    if importlib.util.find_spec("torch") is None:
        raise Mismatch("gradients need torch, which is not installed")
    import torch

    from whet.analysis.curvature.losses import OwnDistribution, OwnValues
    from whet.analysis.curvature.problem import Problem

    loss = OwnDistribution() if likelihood == "categorical" else OwnValues()
    try:
        problem = Problem(model, names, batches, loss)
    except (ValueError, WhetError) as error:
        raise Mismatch(f"gradients cannot follow the model: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    made = 0
    while made < count:
        for inputs, _ in problem.batches():
            for part, samples in _pieces(inputs):
                if made == count:
                    return
                value = loss.draws(problem.twin(*part), generator).sum()
                found = problem.gradient(value)
                yield {name: np.asarray(g.detach().numpy()) for name, g in found.items()}, samples
                made += 1


def _pieces(inputs: "tuple[torch.Tensor, ...]") -> "Iterator[tuple[tuple[torch.Tensor, ...], int]]":
    """Cut a batch into a few samples each; inputs without samples go along whole."""
    sizes = {len(x) for x in inputs if x.ndim}
    if len(sizes) != 1:
        yield inputs, 1
        return
    (size,) = sizes
    for start in range(0, size, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        yield tuple(x[part] if x.ndim else x for x in inputs), min(_TOGETHER, size - start)
