"""Build modules of transformers and timm from their configurations: nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.export import Dim

from whet.tools.sweep.zoo.architecture import BATCH, SEQUENCE, Architecture, Sample, seeded
from whet.tools.sweep.zoo.torchvision_ops import declare

Attention = Literal["sdpa", "eager"]
Options = Mapping[str, Any]

_VOCABULARY = 1000
_PIXELS = {0: BATCH}


def transformers_model(
    model: str, config: str, options: Options, attention: Attention = "sdpa"
) -> nn.Module:
    """Build ``transformers.<model>`` with random weights from ``<config>(**options)``."""
    declare()
    library = importlib.import_module("transformers")
    settings = getattr(library, config)(**options)
    built = getattr(library, model)._from_config(settings, attn_implementation=attention)
    return cast("nn.Module", built)


def timm_image_model(name: str, side: int, **options: Any) -> Architecture:
    """Describe ``timm.create_model(name)`` on square RGB images; 10 classes."""

    def make() -> Sample:
        declare()
        timm = importlib.import_module("timm")
        model = cast(
            "nn.Module", timm.create_model(name, pretrained=False, num_classes=10, **options)
        )
        return Sample(model, (torch.randn(2, 3, side, side),), (_PIXELS,))

    return Architecture(name, "timm", seeded(make))


def timm_class(name: str, module: str, cls: str, side: int, options: Options) -> Architecture:
    """Describe ``timm.models.<module>.<cls>(**options)`` on square RGB images; 10 classes."""

    def make() -> Sample:
        declare()
        build = getattr(importlib.import_module(f"timm.models.{module}"), cls)
        model = cast("nn.Module", build(num_classes=10, **options))
        return Sample(model, (torch.randn(2, 3, side, side),), (_PIXELS,))

    return Architecture(name, "timm", seeded(make))


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    """Draw token ids below 1000, away from the special ids at the start."""
    return torch.randint(5, _VOCABULARY, (batch, length))


def padding_mask(batch: int = 2, length: int = 24) -> torch.Tensor:
    """Return an attention mask in which all rows but the first end in padding."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[1:, -5:] = 0
    return mask


def text(model: nn.Module, batch: int = 2, length: int = 24) -> Sample:
    """Give a model token ids and an attention mask; batch and sequence may vary."""
    sequence = SEQUENCE if length <= 32 else Dim("sequence", min=2, max=2 * length)
    axes = {0: BATCH, 1: sequence}
    inputs = {"input_ids": tokens(batch, length), "attention_mask": padding_mask(batch, length)}
    return Sample(model, inputs, {"input_ids": axes, "attention_mask": axes})


def pixels(model: nn.Module, side: int = 64, batch: int = 2) -> Sample:
    """Give a model RGB images as ``pixel_values``; the batch may vary."""
    images = torch.randn(batch, 3, side, side)
    return Sample(model, {"pixel_values": images}, {"pixel_values": _PIXELS})
