"""Activations in double precision."""

import math
from collections.abc import Mapping

import numpy as np

from whet.ir.execute import CannotRun
from whet.ir.float64.kernel import Attributes, Floats, Kernel, floats, real, within_limit
from whet.ir.values import Array

__all__ = ["ACTIVATIONS", "erf", "gelu", "gelu_by_tanh"]

_erf = np.frompyfunc(math.erf, 1, 1)
_COST = 100
"""Multiplications that one error function counts as."""


def erf(x: Floats) -> Floats:
    """Return the error function of every element."""
    within_limit(x.size * _COST)
    return np.asarray(_erf(x), dtype=np.float64)


def gelu(x: Floats) -> Floats:
    """Return ``x (1 + erf(x / sqrt 2)) / 2``."""
    y: Floats = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return y


def gelu_by_tanh(x: Floats) -> Floats:
    """Return ``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2``."""
    y: Floats = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def _sum(inputs: tuple[Array | None, ...]) -> Floats:
    """Return input plus bias, if there is one."""
    x, bias = floats(inputs, 2)
    assert x is not None
    return x if bias is None else x + bias


def _run_erf(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    return (erf(_sum(inputs[:1])),)


def _run_gelu(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    kind = attributes.get("approximate", b"none")
    if kind not in (b"none", b"tanh"):
        raise CannotRun(f"Gelu of kind {kind!r} has no float64 kernel")
    x = _sum(inputs[:1])
    return (gelu(x) if kind == b"none" else gelu_by_tanh(x),)


def _run_bias_gelu(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    return (gelu(_sum(inputs)),)


def _run_fast_gelu(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    return (gelu_by_tanh(_sum(inputs)),)


def _run_quick_gelu(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    x = _sum(inputs[:1])
    return (x * _sigmoid(real(attributes, "alpha", 1.702) * x),)


def _run_hard_sigmoid(attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    x = _sum(inputs[:1])
    return (np.clip(real(attributes, "alpha", 0.2) * x + real(attributes, "beta", 0.5), 0, 1),)


def _run_hard_swish(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    x = _sum(inputs[:1])
    return (x * np.clip(x / 6 + 0.5, 0, 1),)


def _run_softplus(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    return (np.logaddexp(0, _sum(inputs[:1])),)


def _run_mish(_attributes: Attributes, *inputs: Array | None) -> tuple[Floats]:
    x = _sum(inputs[:1])
    return (x * np.tanh(np.logaddexp(0, x)),)


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -x))


ACTIVATIONS: Mapping[tuple[str, str], Kernel] = {
    ("", "Erf"): _run_erf,
    ("", "Gelu"): _run_gelu,
    ("", "HardSigmoid"): _run_hard_sigmoid,
    ("", "HardSwish"): _run_hard_swish,
    ("", "Mish"): _run_mish,
    ("", "Softplus"): _run_softplus,
    ("com.microsoft", "BiasGelu"): _run_bias_gelu,
    ("com.microsoft", "FastGelu"): _run_fast_gelu,
    ("com.microsoft", "Gelu"): _run_bias_gelu,
    ("com.microsoft", "QuickGelu"): _run_quick_gelu,
}
