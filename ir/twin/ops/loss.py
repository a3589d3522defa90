"""Losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.ir.twin.registry import op

_NOTHING_IGNORED = -(2**62)


def _nll(
    scores: Tensor, target: Tensor, weight: Tensor | None, ignore: int | None, reduction: str
) -> Tensor:
    wide = scores if scores.dtype is torch.float64 else scores.float()
    loss = F.nll_loss(
        wide,
        target.to(torch.int64),
        None if weight is None else weight.to(wide.dtype),
        ignore_index=_NOTHING_IGNORED if ignore is None else ignore,
        reduction=reduction,
    )
    return loss.to(scores.dtype)


@op("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str,
    ignore_index: int | None = None,
) -> Tensor:
    """Average, sum or list minus the log-probability of the target, weighted by class."""
    return _nll(x, target, weight, ignore_index, reduction)


@op("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    reduction: str,
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the loss of log-softmax scores, and those log-probabilities."""
    log_prob = torch.log_softmax(scores, dim=1)
    return _nll(log_prob, labels, weights, ignore_index, reduction), log_prob
