"""The models: where they are, what calibrates them, what judges them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from whet.backends.base import Runner, RuntimeOptions
from whet.backends.worker import Worker
from whet.ir.values import Array
from whet.tools.bench.quantization.minilm_models import export
from whet.tools.bench.quantization.resnet import RESNET20
from whet.tools.bench.quantization.sentences import (
    calibration_tokens,
    cosines,
    rank_correlation,
    read_pairs,
    spearman,
    spearman_of,
    tokenizer,
)

__all__ = ["PARTS", "SUBJECTS", "Subject"]


PARTS = {"all": slice(None), "search": slice(0, None, 2), "unseen": slice(1, None, 2)}
"""Which samples a search sees, and which the result is judged by."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with its data."""

    source: Path
    calibration: Mapping[str, Array]
    candidates: str
    """One family of formats, so that bits are all that differs."""
    metric: Callable[[Path], float]
    """Judges a file; larger is better."""
    agreement: Callable[[Path], float]
    """How far a file's answers are those of the source, up to 1; chance helps nobody here."""
    evaluate: Callable[..., float | Array]
    """Judges a loaded model on the part that it is told, as ``whet.compile`` wants it."""


def resnet20(assets: Path, folder: Path, threads: int) -> Subject:
    """Return ResNet-20 with 2,048 training images, judged by top-1 accuracy on 5,000 test images."""
    del folder
    train = np.load(assets / "cifar10" / "train_10k.npz")
    test = np.load(assets / "cifar10" / "test_dev.npz")
    images = RESNET20.read(test["x"])

    def answers(model: Runner, part: str = "all") -> Array:
        x = images[PARTS[part]]
        found = [model.run({"x": x[k : k + 500]})[0].argmax(1) for k in range(0, len(x), 500)]
        return np.concatenate(found)

    def right(model: Runner, part: str = "all") -> Array:
        return np.asarray(answers(model, part) == test["labels"][PARTS[part]], np.float64)

    def accuracy(path: Path) -> float:
        with Worker(path, RuntimeOptions(threads)) as worker:
            return float(right(worker).mean())

    source = assets / RESNET20.file
    with Worker(source, RuntimeOptions(threads)) as worker:
        wanted = answers(worker)

    def same(path: Path) -> float:
        with Worker(path, RuntimeOptions(threads)) as worker:
            return float(np.mean(answers(worker) == wanted))

    steps = ",".join(
        f"quantize-static{{prefer=size,ends=same,weight_bits={bits}}}" for bits in (8, 4, 3, 2)
    )
    calibration = {"x": RESNET20.read(train["x"][:2048])}
    return Subject(source, calibration, steps, accuracy, same, right)


def minilm(assets: Path, folder: Path, threads: int) -> Subject:
    """Return all-MiniLM-L6-v2 with 256 sentences, judged by the rank correlation on STS-B dev."""
    source = folder / "minilm.onnx"
    export(source)
    pairs = read_pairs(assets / "stsb", "dev")
    steps = ",".join(f"quantize-weights{{prefer=size,bits={bits}}}" for bits in (8, 4, 2))
    tokens = calibration_tokens(read_pairs(assets / "stsb", "train"), tokenizer())

    with Worker(source, RuntimeOptions(threads)) as worker:
        wanted = cosines(worker, pairs)

    def same(path: Path) -> float:
        with Worker(path, RuntimeOptions(threads)) as worker:
            return rank_correlation(cosines(worker, pairs), wanted)

    def alike(model: Runner, part: str = "all") -> float:
        return spearman_of(model, pairs[PARTS[part]])

    return Subject(source, tokens, steps, lambda path: spearman(path, pairs, threads), same, alike)


SUBJECTS: Mapping[str, Callable[[Path, Path, int], Subject]] = {
    "resnet20": resnet20,
    "minilm": minilm,
}
