"""Transformers whose attention carries a bias that the network computes itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.export import Dim

from whet.tools.sweep.zoo.architecture import BATCH, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import tokens

__all__ = ["ARCHITECTURES", "alibi", "pairformer", "phase", "point_cloud"]

HEADS = 4
HEAD = 32
_PAIR = 16


class _Attention(nn.Module):
    """Attend over ``states`` [batch, n, width] with a bias that broadcasts to [batch, heads, n, n].

    ``fused`` hands the bias to scaled_dot_product_attention; without it the formula is spelled out.
    """

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        self.packed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, length, width = states.shape
        split = self.packed(states).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = self._fused(q, k, v, bias) if self.fused else self._plain(q, k, v, bias)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out

    def _fused(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def _plain(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        mixed: torch.Tensor = scores.softmax(-1) @ v
        return mixed


class _Block(nn.Module):
    """Normalise before attention and before a feed-forward, both with a residual path."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attend = _Attention(width, heads, fused)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        states = states + self.attend(self.before(states), bias)
        out: torch.Tensor = states + self.feed(self.between(states))
        return out


class _Stack(nn.Module):
    """Two blocks that share one bias."""

    def __init__(self, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        width = heads * HEAD
        self.blocks = nn.ModuleList(_Block(width, heads, fused) for _ in range(2))
        self.last = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            states = block(states, bias)
        out: torch.Tensor = self.last(states)
        return out


class _PointCloud(nn.Module):
    """Map ``features`` at ``points`` [batch, n, 3] to 4 fields, near points weighing more.

    The bias of head h is -a_h |x_i - x_j|^2: squared differences summed, or (``expanded``)
    |x|^2 + |y|^2 - 2 x y.
    """

    def __init__(self, heads: int, expanded: bool) -> None:
        super().__init__()
        self.expanded = expanded
        self.alpha = nn.Parameter(torch.linspace(0.2, 1.6, heads).view(heads, 1, 1))
        self.enter = nn.Linear(6, heads * HEAD)
        self.stack = _Stack(heads, fused=not expanded)
        self.leave = nn.Linear(heads * HEAD, 4)

    def forward(self, points: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        distance = self._expanded(points) if self.expanded else self._broadcast(points)
        bias = -self.alpha * distance.unsqueeze(1)
        fields: torch.Tensor = self.leave(self.stack(self.enter(features), bias))
        return fields

    def _broadcast(self, points: torch.Tensor) -> torch.Tensor:
        return ((points[:, :, None] - points[:, None]) ** 2).sum(-1)

    def _expanded(self, points: torch.Tensor) -> torch.Tensor:
        squares = (points * points).sum(-1, keepdim=True)
        return squares + squares.transpose(1, 2) - 2 * points @ points.transpose(1, 2)


class _Phase(nn.Module):
    """Attend by relative phase: the bias of head h is a_h cos(t_i - t_j) + b_h sin(t_i - t_j)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.even = nn.Parameter(torch.randn(heads, 1, 1))
        self.odd = nn.Parameter(torch.randn(heads, 1, 1))
        self.enter = nn.Linear(6, heads * HEAD)
        self.stack = _Stack(heads, fused=True)

    def forward(self, phase: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        turn = (phase[:, :, None] - phase[:, None]).unsqueeze(1)
        bias = self.even * turn.cos() + self.odd * turn.sin()
        states: torch.Tensor = self.stack(self.enter(features), bias)
        return states


class _Alibi(nn.Module):
    """Encode tokens; the bias of head h is -m_h |i - j|, in both directions, which has full rank."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes.view(heads, 1, 1))
        self.embed = nn.Embedding(1000, heads * HEAD)
        self.stack = _Stack(heads, fused=True)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        place = torch.arange(input_ids.shape[1])
        distance = (place[:, None] - place[None]).abs()
        slopes = self.get_buffer("slopes")
        states: torch.Tensor = self.stack(self.embed(input_ids), -slopes * distance)
        return states


class _PairBlock(nn.Module):
    """Update the pairs from the single representation, then attend with a bias made of the pairs."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD
        self.left = nn.Linear(width, _PAIR)
        self.right = nn.Linear(width, _PAIR)
        self.mix = nn.Sequential(
            nn.Linear(_PAIR, 2 * _PAIR), nn.ReLU(), nn.Linear(2 * _PAIR, _PAIR)
        )
        self.norm = nn.LayerNorm(_PAIR)
        self.bias = nn.Linear(_PAIR, heads, bias=False)
        self.block = _Block(width, heads, fused=True)

    def forward(
        self, single: torch.Tensor, pair: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pair = pair + self.left(single)[:, :, None] * self.right(single)[:, None]
        pair = pair + self.mix(pair)
        bias = self.bias(self.norm(pair)).permute(0, 3, 1, 2)
        return self.block(single, bias), pair


class _Pairformer(nn.Module):
    """Refine ``single`` [batch, n, width] with a pair representation that starts as an outer sum."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        width = heads * HEAD
        self.rows = nn.Linear(width, _PAIR)
        self.columns = nn.Linear(width, _PAIR)
        self.blocks = nn.ModuleList(_PairBlock(heads) for _ in range(2))

    def forward(self, single: torch.Tensor) -> torch.Tensor:
        pair = self.rows(single)[:, :, None] + self.columns(single)[:, None]
        for block in self.blocks:
            single, pair = block(single, pair)
        return single


def _axes(length: int) -> dict[int, Dim]:
    return {0: BATCH, 1: Dim("points", min=2, max=max(64, 2 * length))}


def point_cloud(length: int, batch: int, heads: int, *, expanded: bool) -> Sample:
    """Give a point-cloud transformer coordinates and features; batch and points may vary."""
    axes = _axes(length)
    inputs = {"points": torch.randn(batch, length, 3), "features": torch.randn(batch, length, 6)}
    return Sample(_PointCloud(heads, expanded), inputs, {"points": axes, "features": axes})


def phase(length: int, batch: int, heads: int) -> Sample:
    """Give a transformer with relative phases its angles and features."""
    axes = _axes(length)
    inputs = {"phase": 3 * torch.randn(batch, length), "features": torch.randn(batch, length, 6)}
    return Sample(_Phase(heads), inputs, {"phase": axes, "features": axes})


def alibi(length: int, batch: int, heads: int) -> Sample:
    """Give a symmetric ALiBi encoder token ids."""
    inputs = {"input_ids": tokens(batch, length)}
    return Sample(_Alibi(heads), inputs, {"input_ids": _axes(length)})


def pairformer(length: int, batch: int, heads: int) -> Sample:
    """Give a Pairformer-like stack a single representation."""
    inputs = {"single": torch.randn(batch, length, heads * HEAD)}
    return Sample(_Pairformer(heads), inputs, {"single": _axes(length)})


def _small(name: str, make: Callable[[int, int, int], Sample]) -> Architecture:
    return Architecture(name, "torch", seeded(lambda: make(24, 2, HEADS)))


ARCHITECTURES = (
    _small("point-cloud", lambda n, b, h: point_cloud(n, b, h, expanded=False)),
    _small("pde", lambda n, b, h: point_cloud(n, b, h, expanded=True)),
    _small("phase", phase),
    _small("alibi-encoder", alibi),
    _small("pairformer", pairformer),
)
