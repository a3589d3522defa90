"""Vision transformers and their relatives with windows, pyramids, or no attention at all."""

from __future__ import annotations

import torch
from torch import nn

from whet.tools.sweep.zoo.architecture import BATCH, SEQUENCE, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import (
    Attention,
    Options,
    padding_mask,
    pixels,
    timm_class,
    timm_image_model,
    tokens,
    transformers_model,
)

_VIT: Options = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
_BEIT: Options = {**_VIT, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
_DATA2VEC: Options = {**_VIT, "use_shared_relative_position_bias": True}
# Two stages of two blocks: the second block of each has shifted windows and their mask.
_SWIN: Options = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 48,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_SEGFORMER: Options = {
    "num_encoder_blocks": 3,
    "depths": [1, 1, 1],
    "sr_ratios": [4, 2, 1],
    "hidden_sizes": [32, 64, 96],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_attention_heads": [1, 2, 4],
    "mlp_ratios": [2, 2, 2],
    "decoder_hidden_size": 64,
    "num_labels": 6,
}
_MOBILEVIT: Options = {
    "image_size": 64,
    "hidden_sizes": [48, 64, 80],
    "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 160],
    "num_attention_heads": 4,
}
_CLIP_TEXT: Options = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    # The pooled token is the first end-of-text token of each row.
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_CLIP: Options = {"text_config": _CLIP_TEXT, "vision_config": _VIT, "projection_dim": 64}


# Two convolutional stages, then two with relative position biases.
_COATNET: Options = {"depths": (1, 1, 1, 1), "embed_dim": (32, 64, 96, 128), "stem_width": 16}
_MIXER: Options = {"img_size": 64, "patch_size": 8, "num_blocks": 2, "embed_dim": 128}
_POOLFORMER: Options = {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128)}


class _ClipLogits(nn.Module):
    """CLIP reduced to its two similarity matrices."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.clip = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.clip(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values
        )
        return output.logits_per_text, output.logits_per_image


def _captions(batch: int = 2, length: int = 24) -> torch.Tensor:
    """Draw token ids whose rows end at different places in an end-of-text token."""
    ids = tokens(batch, length)
    ids[0, -1] = 2
    ids[1:, -6:] = 2
    return ids


def _clip() -> Sample:
    images = torch.export.Dim("images", min=1, max=64)
    inputs = {
        "input_ids": _captions(),
        "attention_mask": padding_mask(),
        "pixel_values": torch.randn(3, 3, 64, 64),
    }
    text_axes = {0: BATCH, 1: SEQUENCE}
    shapes = {"input_ids": text_axes, "attention_mask": text_axes, "pixel_values": {0: images}}
    return Sample(_ClipLogits(transformers_model("CLIPModel", "CLIPConfig", _CLIP)), inputs, shapes)


def _clip_text() -> Sample:
    model = transformers_model("CLIPTextModel", "CLIPTextConfig", _CLIP_TEXT)
    axes = {0: BATCH, 1: SEQUENCE}
    inputs = {"input_ids": _captions(), "attention_mask": padding_mask()}
    return Sample(model, inputs, {"input_ids": axes, "attention_mask": axes})


def _vision(
    name: str, family: str, options: Options, attention: Attention = "sdpa", model: str = "Model"
) -> Architecture:
    def make() -> Sample:
        return pixels(transformers_model(family + model, family + "Config", options, attention))

    return Architecture(name, "transformers", seeded(make))


ARCHITECTURES = (
    _vision("vit", "ViT", _VIT),
    _vision("vit-eager", "ViT", _VIT, "eager", model="ForImageClassification"),
    _vision("deit", "DeiT", _VIT),
    _vision("dinov2", "Dinov2", {**_VIT, "mlp_ratio": 2}),
    _vision("beit", "Beit", _BEIT),
    _vision("beit-eager", "Beit", _BEIT, "eager"),
    _vision("data2vec-vision", "Data2VecVision", _DATA2VEC),
    _vision("swin", "Swin", _SWIN, "eager"),
    _vision("swinv2", "Swinv2", _SWIN, "eager"),
    _vision("segformer", "Segformer", _SEGFORMER, "eager", model="ForSemanticSegmentation"),
    _vision("mobilevit", "MobileViT", _MOBILEVIT, "eager"),
    _vision("clip-vision", "CLIPVision", _VIT),
    Architecture("clip-text", "transformers", seeded(_clip_text)),
    Architecture("clip", "transformers", seeded(_clip)),
    timm_image_model("levit_128s", 224),
    timm_image_model("cait_xxs24_224", 64, img_size=64, depth=2, depth_token_only=1),
    timm_image_model("xcit_nano_12_p16_224", 64, img_size=64, depth=2),
    timm_image_model("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    timm_image_model("coat_lite_tiny", 64, img_size=64),
    timm_image_model("coatnet_nano_rw_224", 64, img_size=64, **_COATNET),
    timm_image_model("test_maxvit", 64, img_size=64),
    timm_image_model("test_vit_relpos", 64, img_size=64),
    timm_image_model("convit_tiny", 64, img_size=64, depth=2, local_up_to_layer=1),
    timm_image_model("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    timm_image_model("edgenext_xx_small", 64),
    timm_class("mixer", "mlp_mixer", "MlpMixer", 64, _MIXER),
    timm_class("poolformer", "metaformer", "MetaFormer", 64, _POOLFORMER),
)
