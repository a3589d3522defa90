"""Muon: steps along the nearest orthogonal matrix of a momentum, for matrices; Adam for vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Muon", "orthogonal"]

_MOMENTUM = 0.95
_LIKE_ADAM = 0.2
"""The root mean square of Adam's steps, about: what rates are meant for."""
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_LARGE = 128
"""Rows from which rounding to bfloat16 is quicker than not to."""


class Muon:
    """Momentum that is made orthogonal before it is applied (Jordan et al. 2024), Nesterov's.

    A kernel ``[outputs, …]`` is a matrix ``[outputs, inputs]``. With M = 0.95 M + 0.05 G and O the orthogonal factor of
    0.05 G + 0.95 M, W moves by ``-rate * 0.2 sqrt(max(outputs, inputs)) O``, whose elements are as large as those of
    Adam's steps (Liu et al. 2025), so that one rate suits both. All directions of a matrix are learned at one speed.
    """

    def __init__(self, free: "Sequence[torch.Tensor]") -> None:
        """Take what is free."""
        import torch

        self._vectors = [p for p in free if p.ndim < 2]
        self._momenta = {p: torch.zeros(len(p), p[0].numel()) for p in free if p.ndim > 1}
        self._adam = torch.optim.Adam(self._vectors, betas=(0.9, 0.99)) if self._vectors else None
        self.param_groups = [{"lr": 0.0}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the slopes, or make them zero."""
        for one in (*self._vectors, *self._momenta):
            if set_to_none:
                one.grad = None
            elif one.grad is not None:
                one.grad.zero_()

    def step(self) -> None:
        """Move once."""
        import torch

        rate = self.param_groups[0]["lr"]
        if self._adam is not None:
            self._adam.param_groups[0]["lr"] = rate
            self._adam.step()
        with torch.no_grad():
            for matrix, momentum in self._momenta.items():
                if matrix.grad is not None:
                    _move(matrix, matrix.grad.reshape(momentum.shape), momentum, rate)


def _move(
    matrix: "torch.Tensor", slope: "torch.Tensor", momentum: "torch.Tensor", rate: float
) -> None:
    momentum.lerp_(slope, 1 - _MOMENTUM)
    factor = orthogonal(slope.lerp(momentum, _MOMENTUM))
    size = rate * _LIKE_ADAM * max(momentum.shape) ** 0.5
    matrix.sub_((size * factor).reshape(matrix.shape))


def orthogonal(matrix: "torch.Tensor") -> "torch.Tensor":
    """Return about U Vᵀ of ``matrix`` = U S Vᵀ: rounds of x ↦ a x + b x³ + c x⁵ bring singular values to 0.7 to 1.2.

    In bfloat16, which is enough for a direction, where the matrix is large.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = _QUINTIC
    norm: torch.Tensor = torch.linalg.vector_norm(matrix)
    x = matrix / (norm + 1e-7)
    if len(x) >= _LARGE:
        x = x.bfloat16()
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.float()
