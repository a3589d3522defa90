"""Let ONNX Runtime's transformer optimizer fuse a file, told the right model type."""

from pathlib import Path
from typing import Any, cast

import onnx_ir

from whet.tools.sweep.fused import count_fused
from whet.tools.sweep.zoo.architecture import Sample

__all__ = ["fused_by_onnxruntime"]

_TYPES = {
    "gpt2": "gpt2 bloom mpt falcon opt llama mistral qwen2 gemma mixtral",
    "gpt_neox": "gpt-neox",
    "phi": "phi",
    "qwen3": "qwen3",
    "t5": "t5-encoder t5-decoder",
    "bart": "whisper-encoder whisper",
    "swin": "swin swinv2",
    "clip": "clip clip-text clip-vision",
    "vit": "vit deit dinov2 beit data2vec-vision segformer mobilevit levit_128s cait_xxs24_224 xcit_nano_12_p16_224 "
    "pvt_v2_b0 coat_lite_tiny coatnet_nano_rw_224 test_maxvit test_vit_relpos convit_tiny eva02_tiny_patch14_224 "
    "edgenext_xx_small mixer poolformer",
}
"""Model type -> architectures, as ONNX Runtime's own documentation and tools pair them; all others are "bert"."""


def fused_by_onnxruntime(path: Path, name: str, sample: Sample) -> dict[str, int]:
    """Return how many of each kind are fused in the file afterwards; raises whatever the optimizer raises."""
    from onnxruntime.transformers import optimizer

    heads, width = _sizes(sample)
    optimized = cast("Any", optimizer).optimize_model(
        str(path),
        model_type=_model_type(name),
        num_heads=heads,
        hidden_size=width,
        opt_level=0,
        use_gpu=False,
        only_onnxruntime=False,
    )
    return count_fused(onnx_ir.serde.deserialize_model(optimized.model))


def _model_type(name: str) -> str:
    base = name.removesuffix("-eager")
    return next((kind for kind, names in _TYPES.items() if base in names.split()), "bert")


def _sizes(sample: Sample) -> tuple[int, int]:
    """Return heads and width as the configuration has them; 0 lets the optimizer look for them in the graph."""
    configs = [getattr(m, "config", None) for m in sample.module.modules()]
    for config in configs:
        heads = getattr(config, "num_attention_heads", None)
        width = getattr(config, "hidden_size", None)
        if isinstance(heads, int) and isinstance(width, int):
            return heads, width
    return 0, 0
