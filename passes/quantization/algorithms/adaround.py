"""AdaRound: up or down is learned for every weight, so that the layer gives the outputs it gave before.

Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, 2020. A weight is c + d h(V) steps, with c
the code to start from, d = 1 or -1 the side on which the real weight lies, and h the rectified sigmoid
clip(1.2 sigmoid(V) - 0.1, 0, 1). Minimized is ||f(x̂, Ŵ) - f(x, W)||² + strength * mean(1 - |2h - 1|^β), where β
falls, so that every h ends at 0 or 1; x̂ are the inputs that the quantized model gives the layer, and f has its
activation in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Doubles, Floats
from whet.passes.quantization.algorithms.gptq import merge_rows
from whet.passes.quantization.algorithms.grid import grid_of

if TYPE_CHECKING:
    import torch

    LayerFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Takes inputs and a matrix ``[outputs, inputs]``; returns outputs."""

__all__ = ["Schedule", "adaround"]

_LOW, _HIGH = -0.1, 1.1
_EDGE = 0.02
"""How far from 0 and 1 an h starts, so that it has a slope."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how hard to train."""

    steps: int = 1000
    batch: int = 32
    rate: float = 0.02
    strength: float = 10.0
    """Weight of the regularizer; the other term is 1 for the codes to start from."""
    warm_up: float = 0.2
    """Share of the steps without the regularizer."""
    beta: tuple[float, float] = (20.0, 2.0)
    held_out: float = 0.2
    """Share of the samples that are kept to compare the result with the start."""
    seed: int = 0


def adaround(
    weights: Array,
    start: Blocks,
    inputs: Array,
    targets: Array,
    function: "LayerFunction",
    *,
    axis: int = -1,
    schedule: Schedule | None = None,
) -> Blocks:
    """Return codes at most one step away from ``start``, on its grid, that bring outputs nearest to ``targets``.

    Args:
        weights: ``[outputs, inputs]``, what is rounded.
        start: Codes to start from: rounded to the nearest as in the paper, or better ones.
        inputs: What the layer reads in the quantized model, samples along axis 0.
        targets: What it gave in the float model, of the same samples.
        function: The layer with bias and activation, of inputs and a matrix like ``weights``, in torch.
        axis: The axis of ``targets`` that counts output channels.
        schedule: Length and strength of the training.

    Rows whose error on samples held out is larger than at the start stay as they were. Raises ValueError where inputs
    and targets differ in number or a value is not finite.
    """
    plan = schedule or Schedule()
    _check(inputs, targets)
    count = len(inputs)
    shuffled = np.random.default_rng(plan.seed).permutation(count)
    kept = max(1, round(plan.held_out * count)) if count > 1 else 0
    held_out, seen = shuffled[:kept] if kept else shuffled, shuffled[kept:]
    rounding = _Rounding(weights, start, function)
    rounding.train(inputs[seen], targets[seen], plan)
    found = grid_of(start).blocks(rounding.codes())
    found = dataclasses.replace(start, codes=found.codes)
    data = inputs[held_out], targets[held_out]
    before, after = (_row_errors(function, b, *data, axis, plan.batch) for b in (start, found))
    return merge_rows(found, start, after < before)


def _check(inputs: Array, targets: Array) -> None:
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(f"{len(inputs)} inputs for {len(targets)} targets")
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise ValueError("an input or a target is infinite or not a number")


class _Rounding:
    """The relaxed codes of one matrix."""

    def __init__(self, weights: Array, start: Blocks, function: "LayerFunction") -> None:
        import torch

        grid = grid_of(start)
        low, high = grid.limits
        scale, zero = _spread(start, weights.shape[1])
        self._codes: Floats = start.codes.astype(np.float32)
        wanted: Floats = np.divide(weights, scale, dtype=np.float32) + zero - self._codes
        side = np.where(wanted < 0, -1.0, 1.0).astype(np.float32)
        side[(self._codes + side < low) | (self._codes + side > high)] = 0
        h = np.clip(np.abs(wanted), _EDGE, 1 - _EDGE)
        logits = np.log((h - _LOW) / (_HIGH - h)).astype(np.float32)
        self._side = side
        self._tensors = [torch.from_numpy(a) for a in (self._codes - zero, side, scale)]
        self._logits = torch.from_numpy(logits).requires_grad_()
        self._function = function

    def train(self, inputs: Array, targets: Array, plan: Schedule) -> None:
        """Minimize the reconstruction error with Adam."""
        import torch

        optimizer = torch.optim.Adam([self._logits], plan.rate)
        draw = np.random.default_rng(plan.seed)
        with torch.no_grad():
            first = slice(0, plan.batch)
            level = float(
                self._error(torch.zeros_like(self._logits), inputs[first], targets[first])
            )
        for step in range(plan.steps):
            rows = draw.integers(0, len(inputs), min(plan.batch, len(inputs)))
            h = self._h()
            error = self._error(h, inputs[rows], targets[rows]) / (level or 1.0)
            optimizer.zero_grad()
            torch.autograd.backward(error + self._penalty(h, step, plan))
            optimizer.step()

    def _error(self, h: "torch.Tensor", inputs: Array, targets: Array) -> "torch.Tensor":
        """Return the mean squared error of the outputs."""
        import torch

        codes, side, scale = self._tensors
        outputs = self._function(torch.from_numpy(inputs), (codes + side * h) * scale)
        return (outputs - torch.from_numpy(targets)).square().mean()

    def codes(self) -> Array:
        """Return the codes with every choice made."""
        chosen = self._h().detach().numpy() >= 0.5
        return np.asarray(self._codes + self._side * chosen)

    def _h(self) -> "torch.Tensor":
        return (self._logits.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def _penalty(self, h: "torch.Tensor", step: int, plan: Schedule) -> "torch.Tensor | float":
        done = step / plan.steps
        if done < plan.warm_up:
            return 0.0
        first, last = plan.beta
        left = 1 - (done - plan.warm_up) / (1 - plan.warm_up)
        return plan.strength * (1 - (2 * h - 1).abs() ** (last + (first - last) * left)).mean()


def _spread(blocks: Blocks, inputs: int) -> tuple[Floats, Floats]:
    """Return scale and zero point of every weight."""
    scale: Floats = np.repeat(blocks.scales, blocks.size, axis=1)[:, :inputs]
    if blocks.zeros is None:
        return scale, np.zeros_like(scale)
    zeros: Floats = blocks.zeros.astype(np.float32)
    return scale, np.repeat(zeros, blocks.size, axis=1)[:, :inputs]


def _row_errors(
    function: "LayerFunction",
    blocks: Blocks,
    inputs: Array,
    targets: Array,
    axis: int,
    batch: int,
) -> Doubles:
    """Return the summed squared output error of every output channel."""
    import torch

    matrix = torch.from_numpy(blocks.values())
    total = np.zeros(len(matrix))
    with torch.no_grad():
        for part in _portions(len(inputs), batch):
            outputs = function(torch.from_numpy(inputs[part]), matrix).numpy()
            lost: Doubles = np.subtract(outputs, targets[part], dtype=np.float64)
            total += np.moveaxis(lost**2, axis, -1).reshape(-1, len(total)).sum(0)
    return total


def _portions(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
