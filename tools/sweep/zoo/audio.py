"""Speech encoders."""

from __future__ import annotations

import torch
from torch import nn

from whet.tools.sweep.zoo.architecture import BATCH, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import Options, tokens, transformers_model

_WHISPER: Options = {
    "vocab_size": 1000,
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "num_mel_bins": 40,
    "max_source_positions": 50,
    "max_target_positions": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
_WAV2VEC2: Options = {
    "vocab_size": 32,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": (64, 64, 64, 64),
    "conv_kernel": (10, 3, 3, 2),
    "conv_stride": (5, 2, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SAMPLES = torch.export.Dim("samples", min=1000, max=16000)


class _WhisperLogits(nn.Module):
    """Whisper reduced to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whisper = model

    def forward(
        self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        output = self.whisper(
            input_features=input_features, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        logits: torch.Tensor = output.logits
        return logits


def _whisper_encoder() -> Sample:
    model = transformers_model("WhisperModel", "WhisperConfig", _WHISPER)
    # The length is fixed: the encoder accepts exactly two frames per source position.
    inputs = {"input_features": torch.randn(2, 40, 100)}
    return Sample(model.get_submodule("encoder"), inputs, {"input_features": {0: BATCH}})


def _whisper() -> Sample:
    model = transformers_model("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER)
    target = torch.export.Dim("target", min=2, max=40)
    inputs = {"input_features": torch.randn(2, 40, 100), "decoder_input_ids": tokens(length=12)}
    shapes = {"input_features": {0: BATCH}, "decoder_input_ids": {0: BATCH, 1: target}}
    return Sample(_WhisperLogits(model), inputs, shapes)


def _speech(family: str, model: str, options: Options) -> Sample:
    built = transformers_model(family + model, family + "Config", options)
    axes = {0: BATCH, 1: _SAMPLES}
    return Sample(built, {"input_values": torch.randn(2, 3200)}, {"input_values": axes})


def _wav2vec2() -> Sample:
    return _speech("Wav2Vec2", "ForCTC", _WAV2VEC2)


def _hubert() -> Sample:
    """Normalise per layer inside the feature extractor and before each block (the large recipe)."""
    stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    return _speech("Hubert", "Model", {**_WAV2VEC2, **stable})


ARCHITECTURES = (
    Architecture("whisper-encoder", "transformers", seeded(_whisper_encoder)),
    Architecture("whisper", "transformers", seeded(_whisper)),
    Architecture("wav2vec2", "transformers", seeded(_wav2vec2)),
    Architecture("hubert", "transformers", seeded(_hubert)),
)
