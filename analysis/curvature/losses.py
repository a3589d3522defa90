"""Losses whose second derivatives are wanted: with labels, or without, the model's own outputs being what is right.

Each gives a value for every sample, and draws whose gradients have the generalized Gauss-Newton matrix (the true Fisher
matrix) as their mean outer product.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from whet.errors import CalibrationError

__all__ = ["Labels", "Loss", "NextToken", "OwnDistribution", "OwnValues"]

Outputs = Sequence[torch.Tensor]


class Loss(ABC):
    """Judge outputs; the leading axis counts samples."""

    @abstractmethod
    def values(self, outputs: Outputs, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of each sample, ``[samples]``."""

    @abstractmethod
    def draws(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """Return a number for each sample, whose gradient g has E[g gᵀ] = Jᵀ H J.

        J is the derivative of the outputs, H the second derivative of the loss by the outputs.
        """


class OwnDistribution(Loss):
    """KL(p || q) of the first output, logits ``[samples, …, classes]``.

    p is the model as it is, q the model as it becomes. Where there are several positions, their mean.
    """

    def values(self, outputs: Outputs, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the divergence from what the model says now: zero, with the curvature that counts."""
        logits = _logits(outputs)
        now = logits.detach().log_softmax(-1)
        lost = (now.exp() * (now - logits.log_softmax(-1))).sum(-1)
        return _flat(lost).mean(1)

    def draws(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """Return products of the logits with random signs that went through the root of their second derivative.

        diag(p) - p pᵀ = R Rᵀ with R = diag(√p) - p √pᵀ, so for signs ξ the gradient by the logits, R ξ, has the right
        mean outer product, with less variance than classes drawn from p have where the model is sure. Positions are
        independent: with weights of 1 / √positions their sum has the mean's Gauss-Newton matrix.
        """
        logits = _logits(outputs)
        roots = logits.detach().softmax(-1).sqrt()
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits.dtype) * 2 - 1
        pushed = roots * signs
        weights = pushed - roots.square() * pushed.sum(-1, keepdim=True)
        positions = float(logits[0].numel() // logits.shape[-1])
        return _flat(weights * logits).sum(1) / math.sqrt(positions)


class Labels(OwnDistribution):
    """Cross-entropy of the first output, logits ``[samples, …, classes]``, with labels ``[samples, …]``."""

    def values(self, outputs: Outputs, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the cross-entropy, its mean where there are several positions."""
        logits = _logits(outputs)
        if labels is None or labels.shape != logits.shape[:-1]:
            found = None if labels is None else tuple(labels.shape)
            raise CalibrationError(
                f"labels have shape {found}, the model's first output {tuple(logits.shape)}"
                " (its last axis counts classes)"
            )
        return _flat(_entropy(logits, labels)).mean(1)


class NextToken(Labels):
    """Cross-entropy of a language model's logits ``[samples, length, classes]`` with the tokens ``[samples, length]``.

    The label of a position is the token at the next one.
    """

    def values(self, outputs: Outputs, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the mean over all positions but the last."""
        following = None if labels is None else labels[:, 1:]
        return super().values([_logits(outputs)[:, :-1]], following)


class OwnValues(Loss):
    """Half the squared distance of all outputs from what they are now, over their squared norm."""

    def values(self, outputs: Outputs, labels: torch.Tensor | None) -> torch.Tensor:
        """Return zero, with the curvature that counts."""
        parts = [(_flat(y) - _flat(y).detach()).square().sum(1) for y in _floats(outputs)]
        return torch.stack(parts).sum(0) / (2 * _energy(outputs))

    def draws(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """Return products of the outputs with standard normal numbers, over the outputs' norm."""
        parts = [
            (_flat(y) * torch.randn(_flat(y).shape, generator=generator, dtype=y.dtype)).sum(1)
            for y in _floats(outputs)
        ]
        return torch.stack(parts).sum(0) / _energy(outputs).sqrt()


def _logits(outputs: Outputs) -> torch.Tensor:
    first = outputs[0]
    if not first.is_floating_point() or first.ndim < 2:
        raise CalibrationError(
            f"the first output has shape {tuple(first.shape)} and type {first.dtype}, no logits [samples, …, classes]"
        )
    return first


def _entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    lost = cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return lost.reshape(classes.shape)


def _floats(outputs: Outputs) -> list[torch.Tensor]:
    found = [y for y in outputs if y.is_floating_point() and y.ndim]
    if not found:
        raise CalibrationError("the model has no floating-point output with samples")
    return found


def _flat(output: torch.Tensor) -> torch.Tensor:
    return output.reshape(len(output), -1)


def _energy(outputs: Outputs) -> torch.Tensor:
    parts = [_flat(y).detach().square().sum(1) for y in _floats(outputs)]
    return torch.stack(parts).sum(0).clamp_min(torch.finfo(parts[0].dtype).tiny)
