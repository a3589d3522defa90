"""Networks of the kind that runs on microcontrollers, with random weights, for tests of the C target."""

import torch
from torch import nn


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class KeywordSpotter(nn.Module):
    """A DS-CNN as in Hello Edge (Zhang et al., 2018): 49 frames of 10 coefficients, 12 words."""

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Separable(channels) for _ in range(blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.pool(self.blocks(self.first(x)))
        return self.head(found.flatten(1))


class TinyTransformer(nn.Module):
    """Token and position embeddings, two blocks of attention and feed-forward, the mean over positions."""

    def __init__(self, words: int = 100, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.1)
        layer = [
            nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        ]
        self.layers = nn.ModuleList(layer)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def settled(module: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """Let batch norms see some data, so that ranges of activations are ordinary."""
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(*inputs)
    return module.eval()
