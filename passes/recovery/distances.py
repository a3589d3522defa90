"""How far a model's values are from the original's: what training lowers, and what it is judged by.

Values are compared in pairs. Sums over a batch are kept apart from what they are divided by, so that batches of any
size add up to the distance on all samples.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from whet.errors import Mismatch

if TYPE_CHECKING:
    import torch

__all__ = ["Distance", "Measured"]

Loss = Literal["outputs", "divergence", "features"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Sums over samples, one for each pair of values."""

    lost: "torch.Tensor"
    whole: "torch.Tensor"
    """What ``lost`` is divided by."""

    def __add__(self, other: "Measured") -> "Measured":
        """Return the sums over both."""
        return Measured(self.lost + other.lost, self.whole + other.whole)


@dataclasses.dataclass(frozen=True)
class Distance:
    """``outputs``: ||ŷ - y||² / ||y||², averaged over outputs. ``divergence``: KL(softmax y || softmax ŷ) per position.

    With ``features`` values behind the outputs are compared too, and their mean is added to that of the outputs.
    """

    loss: Loss
    outputs: int
    """So many of the values are outputs."""

    def measure(
        self, found: "Sequence[torch.Tensor]", wanted: "Sequence[torch.Tensor]"
    ) -> Measured:
        """Compare values pair by pair; raises Mismatch where they cannot be compared."""
        import torch

        pairs = list(zip(found, wanted, strict=True))
        compare = _divergence if self.loss == "divergence" else _squares
        parts = [compare(a, b) for a, b in pairs[: self.outputs]]
        parts += [_squares(a, b) for a, b in pairs[self.outputs :]]
        lost, whole = zip(*parts, strict=True)
        return Measured(torch.stack(lost), torch.stack(whole))

    def value(self, measured: Measured) -> "torch.Tensor":
        """Return the number that is to fall."""
        import torch

        shares = measured.lost / measured.whole.clamp_min(torch.finfo(measured.whole.dtype).tiny)
        outputs = shares[: self.outputs].mean()
        hidden = shares[self.outputs :]
        return outputs + hidden.mean() if len(hidden) else outputs


def _squares(found: "torch.Tensor", wanted: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return ||ŷ - y||² and ||y||² where y is finite."""
    import torch

    from whet.passes.recovery.squares import squared, squared_distance

    if found.shape != wanted.shape:
        raise Mismatch(f"shapes {tuple(found.shape)} and {tuple(wanted.shape)} are not comparable")
    whole = squared(wanted)
    if not bool(torch.isfinite(whole)):
        finite = torch.isfinite(wanted)
        found = torch.where(finite, found, torch.zeros_like(found))
        wanted = torch.where(finite, wanted, torch.zeros_like(wanted))
        whole = squared(wanted)
    return squared_distance(found, wanted), whole


def _divergence(
    found: "torch.Tensor", wanted: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the sum of KL over positions, and the number of positions."""
    import torch

    if found.shape != wanted.shape or wanted.ndim < 2 or wanted.shape[-1] < 2:
        raise Mismatch(
            f"outputs of shapes {tuple(found.shape)} and {tuple(wanted.shape)} are no logits of the same classes"
        )
    is_, said = wanted.float().log_softmax(-1), found.float().log_softmax(-1)
    lost = torch.nn.functional.kl_div(said, is_, reduction="sum", log_target=True)
    return lost, lost.new_tensor(float(wanted.numel() // wanted.shape[-1]))
