"""Cross-layer equalization on arrays: a scale per channel that lowers the predicted error of quantization.

A grid of step Δ adds noise of variance Δ² / 12. With x the values between two linear operators, s the scales, W the
second operator and V the first, the error at the second one's outputs is predicted as

    Σ_o Δ_o² / 12 · Σ_j E[x_j²] / s_j²  +  Σ_oj W_oj² s_j² · (Δ_x² + Δ_j²) / 12   over   Σ_oj W_oj² E[x_j²]

where Δ_o = max_j |W_oj| s_j / reach is the grid of an output's weights, Δ_x = max_j |x_j| / s_j / reach that of the
activations, and Δ_j² the noise that the first operator's grid puts on channel j: with a grid per channel scaling does
not change it (it cancels), with one for the whole weight it is (max_k |V_k| / s_k / reach)² times the energy of its
inputs. Scales follow Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), and
Xiao et al., "SmoothQuant" (2022): s = a^β / r^(1-β), a what a channel reaches on one side, r on the other.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Consumer", "Grids", "Link", "best_scales", "predicted_error"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
_BETAS = (0.25, 0.5, 0.75, 1.0)
_REACH = 1e4
"""Scales stay within this factor of one another's mean."""


@dataclasses.dataclass(frozen=True)
class Grids:
    """What will be quantized, and how finely."""

    weight_bits: int = 8
    activation_bits: int = 8
    """0 keeps activations in float."""
    per_channel: bool = True
    """Weights have a grid per output channel, not one for all."""

    @property
    def weight_reach(self) -> int:
        """Return the largest integer of a symmetric grid of weights."""
        return int(2 ** (self.weight_bits - 1) - 1)


@dataclasses.dataclass
class Consumer:
    """The second operator of a link: magnitudes of W by ``[group, output, input]``, the rest per input."""

    labels: Labels
    """The channel of each input."""
    largest: Floats
    """max over taps of |W|."""
    energy: Floats
    """Σ over taps of W²."""
    taps: int
    peak: Floats
    """max |x_j|."""
    square: Floats
    """E[x_j²]."""

    def by_input(self, per_channel: Floats) -> Floats:
        """Return a number per channel as ``[group, 1, input]``."""
        groups, _, inputs = self.largest.shape
        return per_channel[self.labels].reshape(groups, 1, inputs)


@dataclasses.dataclass
class Link:
    """The first operator by channel, and everything that reads it."""

    largest: Floats
    """max over a channel's weights of |V|."""
    input_energy: float
    """E||input||² of the first operator."""
    consumers: list[Consumer]
    frozen: NDArray[np.bool_]


def predicted_error(link: Link, scales: Floats, grids: Grids) -> float:
    """Return the predicted squared error at the consumers' outputs over their energy."""
    noise, signal = 0.0, 0.0
    for user in link.consumers:
        signal += float((user.energy * _shaped(user.square, user)).sum())
        noise += _weight_noise(user, scales, grids) + _input_noise(link, user, scales, grids)
    return noise / signal if signal > 0 else 0.0


def _shaped(per_input: Floats, user: Consumer) -> Floats:
    groups, _, inputs = user.largest.shape
    return per_input.reshape(groups, 1, inputs)


def _weight_noise(user: Consumer, scales: Floats, grids: Grids) -> float:
    s = user.by_input(scales)
    step = (user.largest * s).max(axis=2, keepdims=True) / grids.weight_reach
    if not grids.per_channel:
        step = np.full_like(step, step.max())
    energy = (_shaped(user.square, user) / s**2).sum(axis=2, keepdims=True) * user.taps
    return float((step**2 / 12 * energy).sum())


def _input_noise(link: Link, user: Consumer, scales: Floats, grids: Grids) -> float:
    variance = 0.0
    if grids.activation_bits:
        peak = float((user.peak / scales[user.labels]).max(initial=0.0))
        variance += (2 * peak / (2**grids.activation_bits - 1)) ** 2 / 12
    if not grids.per_channel:
        step = float((link.largest / scales).max(initial=0.0)) / grids.weight_reach
        variance += step**2 / 12 * link.input_energy
    return variance * float((user.energy * user.by_input(scales) ** 2).sum())


def best_scales(link: Link, grids: Grids, gain: float) -> tuple[Floats, float, float]:
    """Return the scales that lower the predicted error most, and the error before and after.

    Scales of one are returned where no candidate lowers it by the share ``gain``.
    """
    neutral = np.ones(link.frozen.size)
    before = predicted_error(link, neutral, grids)
    best, least = neutral, before * (1 - gain)
    for scales in _candidates(link):
        error = predicted_error(link, scales, grids)
        if error < least:
            best, least = scales, error
    return best, before, before if best is neutral else least


def _candidates(link: Link) -> Iterator[Floats]:
    reads = _most(link, [(u.labels, u.largest.max(axis=1).reshape(-1)) for u in link.consumers])
    peaks = _most(link, [(u.labels, u.peak) for u in link.consumers])
    for made in (link.largest, peaks):
        for beta in _BETAS:
            yield balanced(made, reads, beta, link.frozen)


def _most(link: Link, parts: Sequence[tuple[Labels, Floats]]) -> Floats:
    found = np.zeros(link.frozen.size)
    for labels, numbers in parts:
        np.maximum.at(found, labels, numbers)
    return found


def balanced(made: Floats, reads: Floats, beta: float, frozen: NDArray[np.bool_]) -> Floats:
    """Return made^β / reads^(1-β), with mean 1 on a logarithmic scale; 1 where frozen, or where either is zero."""
    usable = (made > 0) & (reads > 0) & ~frozen
    logs = np.zeros(made.size)
    logs[usable] = beta * np.log(made[usable]) - (1 - beta) * np.log(reads[usable])
    if usable.any() and not frozen.any():
        logs[usable] -= logs[usable].mean()
    return np.asarray(np.exp(np.clip(logs, -np.log(_REACH), np.log(_REACH))))
