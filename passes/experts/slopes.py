"""Values of hidden units times the slopes of the loss by them, through the twin."""

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir

from whet.analysis.activations import first_samples
from whet.analysis.experts import Experts
from whet.errors import Mismatch, WhetError
from whet.ir.values import Array
from whet.passes.sparsity.gradients import Likelihood
from whet.passes.workbench import Workbench

if TYPE_CHECKING:
    import torch

__all__ = ["slope_products"]

_TOGETHER = 64
"""Samples whose draws are added up: their products vanish in the mean."""
_DRAWS = 4
_MOST_ROWS = 1 << 12
"""So many rows, of each draw, are enough."""


def slope_products(
    experts: Experts, hidden: onnx_ir.Value, work: Workbench, likelihood: Likelihood
) -> tuple[Array, Array]:
    """Return a_tj g_tj ``[rows, units]`` and the stored expert of each row, of a few samples and draws.

    g is the slope of a draw whose mean outer product is the Gauss-Newton matrix: of KL divergence where the first
    output are logits (``categorical``), of the squared relative distance of the outputs otherwise. Raises Mismatch.
    """
    import torch

    from whet.analysis.curvature.losses import OwnDistribution, OwnValues
    from whet.ir.twin import from_numpy, to_fx
    from whet.ir.twin.observe import run_observed

    assert experts.index is not None
    loss = OwnDistribution() if likelihood == "categorical" else OwnValues()
    generator = torch.Generator().manual_seed(work.context.seed)
    inputs = [v.name or "" for v in work.graph.inputs if v.const_value is None]
    names = hidden.name or "", experts.index.name or ""
    products: list[Array] = []
    chosen: list[Array] = []
    count = 0
    try:
        twin = to_fx(work.model)
        for batch in work.context.calibration:
            feeds = first_samples(work.model, batch, _TOGETHER)
            arguments = tuple(from_numpy(feeds[name]) for name in inputs)
            for _ in range(_DRAWS):
                held: dict[str, torch.Tensor] = {}
                outputs = run_observed(twin, arguments, {n: _Holding(held, n) for n in names})
                value = loss.draws(outputs, generator).sum()
                units, index = held[names[0]], held[names[1]].reshape(-1)
                (slope,) = torch.autograd.grad(value, [units])
                rows = (units * slope).detach().reshape(len(index), -1)
                products.append(np.asarray(rows.numpy()))
                chosen.append(np.asarray(index.numpy()))
            count += len(chosen[-1])
            if count >= _MOST_ROWS:
                break
    except (ValueError, RuntimeError, WhetError) as error:
        raise Mismatch(f"gradients cannot follow the model: {error}") from error
    return np.concatenate(products), np.concatenate(chosen)


class _Holding:
    """Keep a value that the twin computes, so that slopes by it can be asked for."""

    def __init__(self, held: "dict[str, torch.Tensor]", name: str) -> None:
        self._held, self._name = held, name

    def __call__(self, value: "torch.Tensor") -> None:
        self._held[self._name] = value
