"""Random weights that matter: no constant scales, no zero biases, no trivial running statistics."""

from __future__ import annotations

import math

import torch
from torch import nn

_TINY = 1e-3
_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_KERNELS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_SMALLEST = 0.5
_LARGEST = 1.5


def enliven(module: nn.Module) -> None:
    """Perturb, in place, everything that initialisation leaves constant or too small to be seen.

    Running statistics become mean ~ N(0, 0.1), variance ~ U(0.5, 1.5). A constant parameter c
    becomes c * (1 + N(0, 0.1)); one at (nearly) zero, such as a bias, a layer scale or a relative
    position table, becomes N(0, 0.1). Other arrays are scaled up to a deviation of at least
    0.5 / sqrt(fan in), kernels also down to at most 1.5 / sqrt(fan in), so that signals neither
    die nor explode.
    """
    with torch.no_grad():
        for owner in module.modules():
            if isinstance(owner, _BatchNorm):
                _move_statistics(owner)
            for parameter in owner.parameters(recurse=False):
                _perturb(parameter, _LARGEST if isinstance(owner, _KERNELS) else math.inf)


def _move_statistics(norm: _BatchNorm) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    norm.running_mean.normal_(0.0, 0.1)
    norm.running_var.uniform_(0.5, 1.5)


def _perturb(parameter: nn.Parameter, largest: float) -> None:
    if not parameter.is_floating_point() or not parameter.numel():
        return
    if parameter.abs().max() < _TINY:
        parameter.normal_(0.0, 0.1)
    elif parameter.min() == parameter.max():
        parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    elif parameter.dim() > 1:
        _rescale(parameter, largest)


def _rescale(weight: nn.Parameter, largest: float) -> None:
    unit = 1 / math.sqrt(weight[0].numel())
    deviation = float(weight.std())
    if deviation > 0.0:
        weight.mul_(min(max(deviation, _SMALLEST * unit), largest * unit) / deviation)
