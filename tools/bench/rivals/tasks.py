"""What the tools are given: a trained model, real inputs, and a way to judge what comes out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.ir.values import Array
from whet.tools.bench.quantization.contest import Feeds
from whet.tools.bench.quantization.minilm_models import optimized_export
from whet.tools.bench.quantization.resnet import RESNET20
from whet.tools.bench.quantization.sentences import read_pairs, spearman, tokenizer

__all__ = ["JOBS", "Job"]

_IMAGES, _SENTENCES, _LENGTH = 256, 128, 128


@dataclasses.dataclass(frozen=True)
class Job:
    """One model with its data."""

    title: str
    task: str
    source: Path
    calibration: Feeds
    timed: Feeds
    metric: str
    judge: Callable[[Path], float]


def resnet20(assets: Path, folder: Path, threads: int) -> Job:
    """Return ResNet-20 with images of CIFAR-10; raises FileNotFoundError."""
    del folder
    train = np.load(assets / "cifar10" / "train_10k.npz")
    test = np.load(assets / "cifar10" / "test_dev.npz")
    seen, images = RESNET20.read(train["x"][:_IMAGES]), RESNET20.read(test["x"])

    def judge(path: Path) -> float:
        with Worker(path, RuntimeOptions(threads)) as worker:
            found = [worker.run({"x": images[k : k + 500]})[0] for k in range(0, len(images), 500)]
        return float(np.mean(np.concatenate(found).argmax(1) == test["labels"]))

    return Job(
        "ResNet-20 (CIFAR-10), batch 1", "convolutions", assets / RESNET20.file, {"x": seen},
        {"x": images[:1]}, "top-1", judge,
    )  # fmt: skip


def minilm(assets: Path, folder: Path, threads: int) -> Job:
    """Return all-MiniLM-L6-v2 as the older exporter writes it (opset 17), which every tool reads."""
    pairs = read_pairs(assets / "stsb", "dev")
    optimized_export(folder)
    tokens = tokenizer()
    tokens.enable_truncation(_LENGTH)
    tokens.enable_padding(length=_LENGTH)
    sentences = [one for one, *_ in read_pairs(assets / "stsb", "train")]
    encoded = tokens.encode_batch(sentences[:: len(sentences) // _SENTENCES][:_SENTENCES])
    data: dict[str, Array] = {
        "input_ids": np.asarray([e.ids for e in encoded], np.int64),
        "attention_mask": np.asarray([e.attention_mask for e in encoded], np.int64),
    }
    ids = np.random.default_rng(0).integers(1000, 20000, (1, _LENGTH))
    timed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return Job(
        "all-MiniLM-L6-v2, 1 x 128", "transformer", folder / "traced.onnx", data, timed,
        "Spearman on STS-B", lambda path: spearman(path, pairs, threads),
    )  # fmt: skip


JOBS = {"resnet20": resnet20, "minilm": minilm}
