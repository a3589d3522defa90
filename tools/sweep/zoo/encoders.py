"""Text encoders."""

from __future__ import annotations

from whet.tools.sweep.zoo.architecture import Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import Attention, Options, text, transformers_model

_BERT: Options = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 80,
}
_DISTILBERT: Options = {
    "vocab_size": 1000,
    "dim": 128,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 512,
    "max_position_embeddings": 80,
}
_MODERNBERT: Options = {
    **_BERT,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
_T5: Options = {
    "vocab_size": 1000,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}


def _encoder(
    name: str, family: str, options: Options, attention: Attention = "sdpa", model: str = "Model"
) -> Architecture:
    def make() -> Sample:
        return text(transformers_model(family + model, family + "Config", options, attention))

    return Architecture(name, "transformers", seeded(make))


ARCHITECTURES = (
    _encoder("bert", "Bert", _BERT),
    _encoder("bert-eager", "Bert", _BERT, "eager"),
    _encoder("bert-classifier", "Bert", _BERT, model="ForSequenceClassification"),
    _encoder("roberta", "Roberta", _BERT),
    _encoder("distilbert", "DistilBert", _DISTILBERT),
    _encoder("electra", "Electra", {**_BERT, "embedding_size": 64}),
    _encoder("albert", "Albert", {**_BERT, "embedding_size": 64}),
    _encoder(
        "deberta-v2",
        "DebertaV2",
        {
            **_BERT,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
        "eager",
    ),
    _encoder("mpnet", "MPNet", _BERT, "eager"),
    _encoder("modernbert", "ModernBert", _MODERNBERT),
    _encoder("t5-encoder", "T5", _T5, "eager", model="EncoderModel"),
)
