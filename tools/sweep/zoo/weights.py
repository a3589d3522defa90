"""Random weights that matter: no constant scales, no zero biases, no trivial running statistics."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_TINY = 1e-3


def enliven(module: nn.Module) -> None:
    """Perturb, in place, everything that initialisation leaves constant or too small to be seen.

    Running statistics become mean ~ N(0, 0.1), variance ~ U(0.5, 1.5). A constant parameter c
    becomes c * (1 + N(0, 0.1)); one at (nearly) zero, such as a bias, a layer scale or a relative
    position table, becomes N(0, 0.1). Matrices are scaled up to a deviation of 0.5 / sqrt(fan in).
    """
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                _move_statistics(norm)
        for parameter in module.parameters():
            _perturb(parameter)


def _move_statistics(norm: _BatchNorm) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    norm.running_mean.normal_(0.0, 0.1)
    norm.running_var.uniform_(0.5, 1.5)


def _perturb(parameter: nn.Parameter) -> None:
    if not parameter.is_floating_point() or not parameter.numel():
        return
    if parameter.abs().max() < _TINY:
        parameter.normal_(0.0, 0.1)
    elif parameter.min() == parameter.max():
        parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    elif parameter.dim() > 1:
        _widen(parameter)


def _widen(weight: nn.Parameter) -> None:
    fan_in = weight[0].numel()
    floor = 0.5 / math.sqrt(fan_in)
    deviation = float(weight.std())
    if 0.0 < deviation < floor:
        weight.mul_(floor / deviation)
