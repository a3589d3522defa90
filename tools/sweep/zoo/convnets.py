"""Convolutional networks."""

from __future__ import annotations

import torch

from whet.tools.sweep.zoo.architecture import BATCH, Architecture, Sample, seeded
from whet.tools.sweep.zoo.sources import Options, pixels, timm_image_model, transformers_model

_CONVNEXT: Options = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
_RESNET: Options = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 96, 128],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}
_NARROW = (32, 64, 96, 128)


def _convnext() -> Sample:
    return pixels(transformers_model("ConvNextModel", "ConvNextConfig", _CONVNEXT, "eager"))


def _resnet() -> Sample:
    """Vary height and width too: the only reduction over them is the final mean."""
    height, width = (torch.export.Dim(name, min=33, max=128) for name in ("height", "width"))
    model = transformers_model("ResNetForImageClassification", "ResNetConfig", _RESNET, "eager")
    axes = {0: BATCH, 2: height, 3: width}
    return Sample(model, {"pixel_values": torch.randn(2, 3, 64, 72)}, {"pixel_values": axes})


ARCHITECTURES = (
    Architecture("resnet", "transformers", seeded(_resnet)),
    Architecture("convnext", "transformers", seeded(_convnext)),
    timm_image_model("resnet18", 64, channels=_NARROW),
    timm_image_model("resnext50_32x4d", 64, channels=_NARROW, layers=(1, 1, 1, 1)),
    timm_image_model("seresnet18", 64, channels=_NARROW),
    timm_image_model("mobilenetv2_050", 64),
    timm_image_model("mobilenetv3_small_050", 64),
    timm_image_model("efficientnet_b0", 64),
    timm_image_model("densenet121", 64, block_config=(2, 2, 2, 2)),
    timm_image_model("regnety_002", 64),
    timm_image_model("ghostnet_050", 64),
    timm_image_model("convnextv2_atto", 64, depths=(1, 1, 2, 1)),
    timm_image_model("dla46_c", 64),
    timm_image_model("lcnet_035", 64),
    timm_image_model("ese_vovnet19b_slim_dw", 64),
    timm_image_model("test_nfnet", 64),
    timm_image_model("test_byobnet", 64),
)
