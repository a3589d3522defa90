"""Squared distances of tensors that are as large as a network's activations.

A loss that compares many of them is bound by memory: each temporary is another walk through fresh pages. Forward makes
one of them, ŷ - y, and backward turns it into the gradient where it stands.
"""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["squared", "squared_distance"]


def squared(x: "torch.Tensor") -> "torch.Tensor":
    """Return ||x||², added up in float32; of bfloat16, which no sum overflows, the norm is rounded to that type."""
    import torch

    half = x.dtype == torch.float16
    norm: torch.Tensor = torch.linalg.vector_norm(x.float() if half else x)
    return norm.float().square()


def squared_distance(found: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
    """Return ||ŷ - y||² in float32, to be differentiated once, in ŷ."""
    distance: torch.Tensor = _function().apply(found, wanted)
    return distance


@functools.cache
def _function() -> Any:
    """Return d/dŷ ||ŷ - y||² = 2 (ŷ - y) as torch wants it."""
    import torch

    class Distance(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            ctx.difference = found.detach() - wanted.to(found.dtype)
            return squared(ctx.difference)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
            return ctx.difference.mul_(2 * grad_outputs[0]), None

    return Distance
