"""Members of the zoo with a biased attention, at the length one asks for: two blocks, 8 heads of 32, one sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.export import Dim

from whet.errors import UsageError
from whet.tools.sweep.zoo import biased
from whet.tools.sweep.zoo.architecture import Architecture, Sample, Source, seeded
from whet.tools.sweep.zoo.sources import Options, pixels, text, transformers_model

__all__ = ["BIASED", "at_length"]

HEADS = 8
_WIDTH = 256
_PATCH = 8
_SPECIAL: Options = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False}
_VOCABULARY: Options = {"vocab_size": 1000}
_BLOCKS: Options = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * _WIDTH,
}
_BLOOM: Options = {
    **_VOCABULARY,
    **_SPECIAL,
    "hidden_size": _WIDTH,
    "n_layer": 2,
    "n_head": HEADS,
}
_MPT: Options = {**_VOCABULARY, **_SPECIAL, "d_model": _WIDTH, "n_layers": 2, "n_heads": HEADS}
_T5: Options = {
    **_VOCABULARY,
    "d_model": _WIDTH,
    "d_kv": _WIDTH // HEADS,
    "d_ff": 2 * _WIDTH,
    "num_layers": 2,
    "num_heads": HEADS,
    "use_cache": False,
}
_BEIT: Options = {**_BLOCKS, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}


def _text(model: str, config: str, options: Options, length: int, **more: int) -> Sample:
    built = transformers_model(model, config, {**options, **more}, "eager")
    return text(_Last(built), batch=1, length=length)


def _bloom(length: int) -> Sample:
    return _text("BloomModel", "BloomConfig", _BLOOM, length)


def _mpt(length: int) -> Sample:
    return _text("MptModel", "MptConfig", _MPT, length, max_seq_len=2 * length + 16)


def _t5(length: int) -> Sample:
    return _text("T5EncoderModel", "T5Config", _T5, length)


def _mpnet(length: int) -> Sample:
    options = {**_VOCABULARY, **_BLOCKS}
    most = 2 * length + 16
    return _text("MPNetModel", "MPNetConfig", options, length, max_position_embeddings=most)


def _beit(length: int) -> Sample:
    """Attend over the largest square of patches within ``length``, and one token more."""
    side = _PATCH * math.isqrt(length)
    options = {**_BEIT, "image_size": side, "patch_size": _PATCH}
    return pixels(transformers_model("BeitModel", "BeitConfig", options, "eager"), side, batch=1)


def _swin(family: str, length: int) -> Sample:
    """Attend in the largest square window within ``length``: four of them in stage one, one in stage two."""
    window = math.isqrt(length)
    options = {
        "image_size": 4 * 2 * window,
        "patch_size": 4,
        "embed_dim": _WIDTH // 2,
        "depths": [2, 2],
        "num_heads": [HEADS // 2, HEADS],
        "window_size": window,
    }
    model = transformers_model(family + "Model", family + "Config", options, "eager")
    return pixels(model, 4 * 2 * window, batch=1)


def _smooth(sample: Sample) -> Sample:
    """Make tables of relative positions smooth, as training makes them: four waves over the plane, and 3 % noise."""
    for name, table in sample.module.named_parameters():
        if name.endswith("relative_position_bias_table"):
            side = math.isqrt(len(table))
            place = torch.linspace(-1, 1, side)
            grid = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1)
            phase = 3 * grid @ torch.randn(2, 4) + 3 * torch.randn(4)
            waves = (phase.cos() @ torch.randn(4, table.shape[1])).flatten(0, 1)
            with torch.no_grad():
                table[: side**2] = waves
                table.add_(0.03 * torch.randn_like(table))
    return sample


class _Last(nn.Module):
    """A text model reduced to its last hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return found


BIASED: Mapping[str, tuple[Source, Callable[[int], Sample]]] = {
    "bloom": ("transformers", _bloom),
    "mpt": ("transformers", _mpt),
    "t5-encoder": ("transformers", _t5),
    "mpnet": ("transformers", _mpnet),
    "beit": ("transformers", _beit),
    "swin": ("transformers", lambda n: _swin("Swin", n)),
    "swinv2": ("transformers", lambda n: _swin("Swinv2", n)),
    "beit-smooth": ("transformers", lambda n: _smooth(_beit(n))),
    "swin-smooth": ("transformers", lambda n: _smooth(_swin("Swin", n))),
    "point-cloud": ("torch", lambda n: biased.point_cloud(n, 1, HEADS, expanded=False)),
    "pde": ("torch", lambda n: biased.point_cloud(n, 1, HEADS, expanded=True)),
    "phase": ("torch", lambda n: biased.phase(n, 1, HEADS)),
    "alibi-encoder": ("torch", lambda n: biased.alibi(n, 1, HEADS)),
    "pairformer": ("torch", lambda n: biased.pairformer(n, 1, HEADS)),
}
"""Name -> its library, and what builds it at a length."""


def at_length(name: str, length: int) -> Architecture:
    """Return a member of the zoo with a biased attention over about ``length`` positions."""
    if name not in BIASED:
        raise UsageError(f"'{name}' has no given length; those that have: {', '.join(BIASED)}")
    source, make = BIASED[name]
    return Architecture(f"{name} {length}", source, seeded(lambda: _with_one_sample(make(length))))


def _with_one_sample(sample: Sample) -> Sample:
    """Fix the batch: exporters take an example size of one as fixed."""
    axes = {name: {a: d for a, d in named.items() if a} for name, named in _named_axes(sample)}
    return Sample(sample.module, sample.inputs, axes if any(axes.values()) else None)


def _named_axes(sample: Sample) -> list[tuple[str, dict[int, Dim]]]:
    assert isinstance(sample.inputs, dict)
    return [
        (name, {axis.index: axis.dim for axis in axes})
        for name, (_, axes) in zip(sample.inputs, sample.axes(), strict=True)
    ]
