"""The models: where they are, what calibrates them, what judges them, what they are timed on."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.ir.values import Array
from whet.tools.bench.mixtures.subjects import minilm, resnet20
from whet.tools.bench.quantization.resnet import RESNET20
from whet.tools.bench.quantization.sentences import calibration_tokens, read_pairs, tokenizer

__all__ = ["SUBJECTS", "Subject", "stories"]

_ROWS, _BATCH = 128, 16
_SENTENCES, _TOKENS = 8192, 32


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with its data."""

    source: Path
    calibration: Mapping[str, Array]
    measure: str
    """What the metric is."""
    metric: Callable[[Path], float]
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]
    """What is timed."""


def _resnet20(assets: Path, folder: Path, threads: int) -> Subject:
    """Return ResNet-20, with 10,000 training images, judged by top-1 accuracy on 5,000 test images."""
    known = resnet20(assets, folder, threads)
    images = RESNET20.read(np.load(assets / "cifar10" / "train_10k.npz")["x"])
    feeds = {"x": images[:1]}
    return Subject(known.source, {"x": images}, "top-1", known.metric, {"batch": 1}, feeds)


def _minilm(assets: Path, folder: Path, threads: int) -> Subject:
    """Return all-MiniLM-L6-v2 with 8,192 sentences of 32 tokens, judged by the rank correlation on STS-B dev."""
    known = minilm(assets, folder, threads)
    tokens = tokenizer()
    tokens.enable_truncation(_TOKENS)
    pairs = read_pairs(assets / "stsb", "train")
    pairs += [(other, one, score) for one, other, score in pairs]
    calibration = calibration_tokens(pairs, tokens, _SENTENCES)
    ids = np.random.default_rng(0).integers(1000, 20000, (8, 32))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    sizes = {"batch": 8, "seq": 32}
    return Subject(known.source, calibration, "Spearman", known.metric, sizes, feeds)


def stories(assets: Path, folder: Path, threads: int) -> Subject:
    """Return stories260K with 128 rows of tokens, judged by the perplexity of 128 others."""
    del folder
    rows = np.load(assets / "stories260k" / "tokens_dev.npz")["input_ids"]
    judged = rows[_ROWS : 2 * _ROWS]
    source = assets / "stories260k" / "stories260k.onnx"
    sizes, feeds = {"batch": 1, "seq": 256}, {"input_ids": rows[:1]}

    def perplexity(path: Path) -> float:
        return _perplexity(path, judged, threads)

    return Subject(source, {"input_ids": rows[:_ROWS]}, "perplexity", perplexity, sizes, feeds)


def _perplexity(path: Path, rows: Array, threads: int) -> float:
    """Return exp of the mean of -log p(token)."""
    total = 0.0
    with Worker(path, RuntimeOptions(threads)) as worker:
        for start in range(0, len(rows), _BATCH):
            tokens = rows[start : start + _BATCH]
            logits = worker.run({"input_ids": tokens})[0][:, :-1].astype(np.float64)
            highest = logits.max(-1, keepdims=True)
            normal = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
            told = np.take_along_axis(logits, tokens[:, 1:, None].astype(np.intp), -1)[..., 0]
            total += float((normal - told).sum())
    return math.exp(total / (rows.shape[0] * (rows.shape[1] - 1)))


SUBJECTS: Mapping[str, Callable[[Path, Path, int], Subject]] = {
    "resnet20": _resnet20,
    "minilm": _minilm,
    "stories": stories,
}
