"""Designs that no library has in a small form: segmentation, detection, recurrence, experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.export import Dim

from whet.tools.sweep.zoo.architecture import BATCH, SEQUENCE, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import tokens


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolve, normalise, rectify."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _UNet(nn.Module):
    """Segment ``image`` [batch, 3, height, width] into 4 classes, with skip connections."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(a, b), _convolution(b, b)) for a, b in pairs
        )
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(_convolution(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        for index, block in enumerate(self.down):
            image = block(nn.functional.max_pool2d(image, 2) if index else image)
            skips.append(image)
        for grow, up, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            image = up(torch.cat([grow(image), skip], dim=1))
        classes: torch.Tensor = self.head(image)
        return classes


class _Detector(nn.Module):
    """Detect objects in ``image`` the DETR way: a set of learnt queries decodes a feature map.

    Returns class logits [batch, queries, 5] and boxes [batch, queries, 4] in (0, 1).
    """

    def __init__(self, width: int = 64, queries: int = 12, cells: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            _convolution(3, 32, 7, 4), _convolution(32, 64, 3, 2), _convolution(64, 96, 3, 2)
        )
        self.project = nn.Conv2d(96, width, 1)
        self.transformer = nn.Transformer(
            width, 4, 2, 2, 2 * width, batch_first=True, activation="gelu"
        )
        self.position = nn.Parameter(torch.randn(1, cells, width))
        self.query = nn.Parameter(torch.randn(1, queries, width))
        self.classify = nn.Linear(width, 5)
        self.locate = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.project(self.backbone(image)).flatten(2).transpose(1, 2)
        query = self.query.expand(image.shape[0], -1, -1)
        decoded = self.transformer(features + self.position, query)
        return self.classify(decoded), self.locate(decoded).sigmoid()


class _Tagger(nn.Module):
    """Tag each token with one of 9 labels: embedding, two bidirectional LSTM layers, linear."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.label = nn.Linear(2 * width, 9)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embed(input_ids))
        labels: torch.Tensor = self.label(states)
        return labels


class _Forecaster(nn.Module):
    """Forecast the next 6 values of ``series`` [batch, time, 3] with a two-layer GRU."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(3, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 6)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(series)
        forecast: torch.Tensor = self.head(states[:, -1])
        return forecast


class _CausalBlock(nn.Module):
    """Two dilated convolutions that see the past only, and a residual path."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.first = nn.Conv1d(inputs, outputs, 3, dilation=dilation)
        self.norm = nn.BatchNorm1d(outputs)
        self.second = nn.Conv1d(outputs, outputs, 3, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        pad = nn.functional.pad
        hidden = self.norm(self.first(pad(series, (self.past, 0)))).relu()
        hidden = self.second(pad(hidden, (self.past, 0))).relu()
        total: torch.Tensor = hidden + self.shortcut(series)
        return total.relu()


class _TemporalConvolution(nn.Module):
    """Map ``series`` [batch, 8, time] to 5 values per step by causal, dilated convolutions."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        sizes = ((8, width, 1), (width, width, 2), (width, width, 4), (width, width, 8))
        self.blocks = nn.Sequential(*(_CausalBlock(*size) for size in sizes))
        self.head = nn.Conv1d(width, 5, 1)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.head(self.blocks(series))
        return values


class _Experts(nn.Module):
    """Route each token to the two best of n experts; all experts are computed, two are summed."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.route = nn.Linear(width, experts)
        self.enter = nn.Parameter(torch.randn(experts, width, hidden) / width**0.5)
        self.leave = nn.Parameter(torch.randn(experts, hidden, width) / hidden**0.5)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        best, chosen = self.route(states).softmax(-1).topk(2, dim=-1)
        share = best / best.sum(-1, keepdim=True)
        empty = torch.zeros(*states.shape[:-1], self.enter.shape[0])
        gate = empty.scatter(-1, chosen, share)
        hidden = torch.einsum("bsw,ewh->besh", states, self.enter)
        outputs = torch.einsum("besh,ehw->besw", nn.functional.silu(hidden), self.leave)
        return torch.einsum("besw,bse->bsw", outputs, gate)


class _MixtureClassifier(nn.Module):
    """Classify token sequences by two residual layers of routed experts."""

    def __init__(self, width: int = 64, experts: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.experts = nn.ModuleList(_Experts(width, 2 * width, experts) for _ in range(2))
        self.label = nn.Linear(width, 7)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states = self.embed(input_ids)
        for norm, experts in zip(self.norms, self.experts, strict=True):
            states = states + experts(norm(states))
        labels: torch.Tensor = self.label(states.mean(1))
        return labels


class _Branches(nn.Module):
    """Four parallel paths whose channels are concatenated."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            [
                _convolution(inputs, width, 1),
                nn.Sequential(_convolution(inputs, width, 1), _convolution(width, width, 3)),
                nn.Sequential(_convolution(inputs, width, 1), _convolution(width, width, 5)),
                nn.Sequential(
                    nn.AvgPool2d(3, 1, 1, count_include_pad=False), _convolution(inputs, width, 1)
                ),
            ]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([path(image) for path in self.paths], dim=1)


def _inception() -> nn.Module:
    return nn.Sequential(
        _convolution(3, 32, 3, 2),
        _Branches(32, 16),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Branches(64, 24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def _vgg() -> nn.Module:
    return nn.Sequential(
        *(_convolution(3, 32), nn.MaxPool2d(2), _convolution(32, 64), nn.MaxPool2d(2)),
        *(_convolution(64, 96), _convolution(96, 96), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(96 * 16, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)),
    )


def _image(make: Callable[[], nn.Module], side: int) -> Callable[[], Sample]:
    return lambda: Sample(make(), (torch.randn(2, 3, side, side),), ({0: BATCH},))


def _ids(make: Callable[[], nn.Module]) -> Callable[[], Sample]:
    axes = {0: BATCH, 1: SEQUENCE}
    return lambda: Sample(make(), {"input_ids": tokens(length=12)}, {"input_ids": axes})


def _series(
    make: Callable[[], nn.Module], shape: tuple[int, ...], axis: int
) -> Callable[[], Sample]:
    axes = {0: BATCH, axis: Dim("time", min=2, max=512)}
    return lambda: Sample(make(), (torch.randn(shape),), (axes,))


ARCHITECTURES = (
    Architecture("unet", "torch", seeded(_image(_UNet, 32))),
    Architecture("detr", "torch", seeded(_image(_Detector, 64))),
    Architecture("inception", "torch", seeded(_image(_inception, 48))),
    Architecture("vgg", "torch", seeded(_image(_vgg, 32))),
    Architecture("lstm-tagger", "torch", seeded(_ids(_Tagger))),
    Architecture("gru-forecaster", "torch", seeded(_series(_Forecaster, (2, 12, 3), 1))),
    Architecture("tcn", "torch", seeded(_series(_TemporalConvolution, (2, 8, 64), 2))),
    Architecture("mixture-of-experts", "torch", seeded(_ids(_MixtureClassifier))),
)
