"""Activation functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.ir.twin.registry import op


@op("Relu", since=1)
def relu(x: Tensor) -> Tensor:
    """Compute ``max(x, 0)``."""
    return torch.relu(x)


@op("LeakyRelu", since=1)
def leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    """Compute ``x`` above 0, else ``alpha x``."""
    return torch.where(x < 0, alpha * x, x)


@op("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Compute ``x`` above 0, else ``slope x``."""
    return torch.where(x < 0, slope * x, x)


@op("Elu", since=1)
def elu(x: Tensor, *, alpha: float) -> Tensor:
    """Compute ``x`` above 0, else ``alpha (exp(x) - 1)``."""
    return F.elu(x, alpha)


@op("Selu", since=1)
def selu(x: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Compute ``gamma elu(x)``."""
    return gamma * F.elu(x, alpha)


@op("Celu", since=12)
def celu(x: Tensor, *, alpha: float) -> Tensor:
    """Compute ``max(0, x) + min(0, alpha (exp(x / alpha) - 1))``."""
    return F.celu(x, alpha)


@op("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float) -> Tensor:
    """Compute ``x`` above ``alpha``, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("HardSigmoid", since=1)
def hard_sigmoid(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Compute ``alpha x + beta`` limited to [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


@op("HardSwish", since=14)
def hard_swish(x: Tensor) -> Tensor:
    """Compute ``x`` times ``x / 6 + 1 / 2`` limited to [0, 1]."""
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


@op("Softplus", since=1)
def softplus(x: Tensor) -> Tensor:
    """Compute ``log(exp(x) + 1)``."""
    return torch.logaddexp(x, torch.zeros_like(x))


@op("Softsign", since=1)
def softsign(x: Tensor) -> Tensor:
    """Compute ``x / (1 + |x|)``."""
    return F.softsign(x)


@op("Shrink", since=9)
def shrink(x: Tensor, *, bias: float, lambd: float) -> Tensor:
    """Move values outside ``[-lambd, lambd]`` by ``bias`` towards 0; those inside become 0."""
    wide = x.float() if not x.is_floating_point() else x
    outside = torch.where(wide > lambd, wide - bias, torch.zeros_like(wide))
    return torch.where(wide < -lambd, wide + bias, outside).to(x.dtype)


@op("Mish", since=18)
def mish(x: Tensor) -> Tensor:
    """Compute ``x tanh(softplus(x))``."""
    return x * torch.tanh(softplus(x))


@op("Swish", since=24)
def swish(x: Tensor, *, alpha: float) -> Tensor:
    """Compute ``x sigmoid(alpha x)``."""
    return x * torch.sigmoid(alpha * x)


@op("QuickGelu", domain="com.microsoft")
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """Compute ``x sigmoid(alpha x)``."""
    return x * torch.sigmoid(alpha * x)


@op("Gelu", since=20)
def gelu(x: Tensor, *, approximate: str) -> Tensor:
    """Compute ``x Phi(x)``, by erf or by tanh."""
    return F.gelu(x, approximate=approximate)


@op("Gelu", domain="com.microsoft")
def gelu_by_erf(x: Tensor) -> Tensor:
    """Compute ``x Phi(x)``."""
    return F.gelu(x)


@op("BiasGelu", domain="com.microsoft")
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x + bias)``."""
    return F.gelu(x + bias)


@op("FastGelu", domain="com.microsoft")
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``gelu(x + bias)`` by tanh."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def _as_matrix(x: Tensor, axis: int) -> Tensor:
    axis = axis % x.ndim if x.ndim else 0
    return x.reshape(x.shape[:axis].numel(), -1)


@op("Softmax", since=1)
def softmax_1(x: Tensor, *, axis: int) -> Tensor:
    """Normalize over all axes from ``axis`` on."""
    return torch.softmax(_as_matrix(x, axis), dim=-1).reshape(x.shape)


@op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int) -> Tensor:
    """Compute ``exp(x) / sum(exp(x))`` along an axis."""
    return torch.softmax(x, dim=axis)


@op("LogSoftmax", since=1)
def log_softmax_1(x: Tensor, *, axis: int) -> Tensor:
    """Normalize logarithms over all axes from ``axis`` on."""
    return torch.log_softmax(_as_matrix(x, axis), dim=-1).reshape(x.shape)


@op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int) -> Tensor:
    """Compute ``x - log(sum(exp(x)))`` along an axis."""
    return torch.log_softmax(x, dim=axis)


def _one_hot_maximum(x: Tensor, axis: int) -> Tensor:
    index = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, index, 1.0)


@op("Hardmax", since=1)
def hardmax_1(x: Tensor, *, axis: int) -> Tensor:
    """Mark the first maximum over all axes from ``axis`` on."""
    return _one_hot_maximum(_as_matrix(x, axis), -1).reshape(x.shape)


@op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int) -> Tensor:
    """Mark the first maximum along an axis with 1, all else with 0."""
    return _one_hot_maximum(x, axis)


@op("SwiGLU", since=28)
def swiglu(gate: Tensor, value: Tensor, *, alpha: float) -> Tensor:
    """Compute ``gate sigmoid(alpha gate) value``."""
    return gate * torch.sigmoid(alpha * gate) * value
