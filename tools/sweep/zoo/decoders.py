"""Causal language models and a decoder with cross-attention; every one without a cache."""

from __future__ import annotations

import torch
from torch import nn

from whet.tools.sweep.zoo.architecture import BATCH, SEQUENCE, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import (
    Attention,
    Options,
    padding_mask,
    text,
    tokens,
    transformers_model,
)

_SPECIAL: Options = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False}
_BASE: Options = {"vocab_size": 1000, **_SPECIAL}
# Grouped queries (four heads share two key heads), rotary positions, gated feed-forward.
_LLAMA: Options = {
    **_BASE,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 80,
}
_HEADS_OF_32: Options = {**_LLAMA, "head_dim": 32}
_GPT2: Options = {**_BASE, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 80}
_BLOOM: Options = {**_BASE, "hidden_size": 128, "n_layer": 2, "n_head": 4}
_MPT: Options = {**_BASE, "d_model": 128, "n_layers": 2, "n_heads": 4, "max_seq_len": 80}
_FALCON: Options = {**_LLAMA, "ffn_hidden_size": 256}
_NEOX: Options = {**_LLAMA, "rotary_pct": 0.25}
_OPT: Options = {**_LLAMA, "ffn_dim": 256, "word_embed_proj_dim": 64}
_EXPERTS: Options = {**_LLAMA, "num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
_MIXTRAL: Options = {**_EXPERTS, "num_local_experts": 4}
_OLMOE: Options = {**_EXPERTS, "num_experts": 8}
# Half of the width for each expert, and one that sees every token.
_QWEN2_MOE: Options = {
    **_EXPERTS,
    "num_experts": 4,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
}
_T5: Options = {
    **_BASE,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


class _CrossDecoder(nn.Module):
    """A T5 stack in its decoder role: tokens, and the encoder's states they attend to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model.get_submodule("decoder")

    def forward(
        self, input_ids: torch.Tensor, encoder_states: torch.Tensor, encoder_mask: torch.Tensor
    ) -> torch.Tensor:
        output = self.decoder(
            input_ids=input_ids,
            encoder_hidden_states=encoder_states,
            encoder_attention_mask=encoder_mask,
            use_cache=False,
        )
        states: torch.Tensor = output.last_hidden_state
        return states


def _t5_decoder() -> Sample:
    source = torch.export.Dim("source", min=2, max=64)
    inputs = {
        "input_ids": tokens(length=12),
        "encoder_states": torch.randn(2, 24, 128),
        "encoder_mask": padding_mask(),
    }
    shapes = {
        "input_ids": {0: BATCH, 1: SEQUENCE},
        "encoder_states": {0: BATCH, 1: source},
        "encoder_mask": {0: BATCH, 1: source},
    }
    return Sample(_CrossDecoder(transformers_model("T5Model", "T5Config", _T5)), inputs, shapes)


def _without_mask(model: nn.Module) -> Sample:
    axes = {0: BATCH, 1: SEQUENCE}
    return Sample(model, {"input_ids": tokens()}, {"input_ids": axes})


def _causal(
    name: str,
    family: str,
    options: Options,
    attention: Attention = "sdpa",
    *,
    masked: bool = True,
    model: str = "ForCausalLM",
) -> Architecture:
    def make() -> Sample:
        built = transformers_model(family + model, family + "Config", options, attention)
        return text(built) if masked else _without_mask(built)

    return Architecture(name, "transformers", seeded(make))


ARCHITECTURES = (
    _causal("gpt2", "GPT2", _GPT2, model="LMHeadModel"),
    _causal("gpt2-eager", "GPT2", _GPT2, "eager", model="LMHeadModel", masked=False),
    _causal("gpt-neox", "GPTNeoX", _NEOX),
    _causal("bloom", "Bloom", _BLOOM, "eager"),
    _causal("mpt", "Mpt", _MPT, "eager"),
    # Eager, because the exporter's Attention does not broadcast the single key head.
    _causal("falcon", "Falcon", _FALCON, "eager"),
    _causal("opt", "OPT", _OPT),
    _causal("llama", "Llama", _LLAMA),
    _causal("llama-eager", "Llama", _LLAMA, "eager", masked=False),
    _causal("mistral", "Mistral", {**_LLAMA, "sliding_window": 8}),
    _causal("qwen2", "Qwen2", _LLAMA),
    _causal("qwen3", "Qwen3", _HEADS_OF_32, masked=False),
    _causal("gemma", "Gemma", _HEADS_OF_32),
    _causal("phi", "Phi", _LLAMA),
    _causal("mixtral", "Mixtral", _MIXTRAL),
    _causal("olmoe", "Olmoe", _OLMOE),
    _causal("qwen2-moe", "Qwen2Moe", _QWEN2_MOE),
    Architecture("t5-decoder", "transformers", seeded(_t5_decoder)),
)
