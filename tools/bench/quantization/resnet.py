"""ResNet-20 and ResNet-8 (CIFAR-10): static int8 against float32 and against ONNX Runtime's own quantizer."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array
from whet.tools.bench.quantization.contest import contest, standings
from whet.tools.bench.quantization.peers import best_static
from whet.tools.bench.quantization.recipes import RECIPES, write_recipe

__all__ = ["RESNET8", "RESNET20", "Network", "resnet8", "resnet20"]

_CALIBRATION, _PART = 512, 64
_MEAN = np.asarray((0.485, 0.456, 0.406), np.float32)
_STD = np.asarray((0.229, 0.224, 0.225), np.float32)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and how it reads images."""

    name: str
    file: str
    normalized: bool
    """Whether it reads images with mean 0 and deviation 1, or 0..255."""

    def read(self, x: Array) -> Array:
        """Return ``[count, 3, 32, 32]`` from bytes ``[count, 32, 32, 3]``."""
        real = x.astype(np.float32)
        scaled = (real / 255 - _MEAN) / _STD if self.normalized else real
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


RESNET20 = Network("resnet20", "resnet_cifar10/resnet20.onnx", normalized=True)
RESNET8 = Network("resnet8", "mlperf_tiny_resnet8/resnet8.onnx", normalized=False)


def resnet20(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per batch and contender."""
    yield from _lines(RESNET20, assets, folder, threads)


def resnet8(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per batch and contender."""
    yield from _lines(RESNET8, assets, folder, threads)


def _lines(network: Network, assets: Path, folder: Path, threads: int) -> Iterator[str]:
    source = assets / network.file
    train = np.load(assets / "cifar10" / "train_10k.npz")
    test = np.load(assets / "cifar10" / "test_dev.npz")
    seen, images = network.read(train["x"][:_CALIBRATION]), network.read(test["x"])
    parts = [{"x": seen[k : k + _PART]} for k in range(0, len(seen), _PART)]
    for batch in (1, 128):
        feeds = {"x": images[:batch]}
        place = folder / f"{network.name}-{batch}"
        place.mkdir()
        setting, peer = best_static(source, place, parts, feeds, threads)
        models = {"float32": source, f"onnxruntime ({setting})": peer}
        for recipe in RECIPES:
            ours = place / recipe.replace(" ", "-")
            compile(
                source,
                calibration={"x": seen},
                recipe=write_recipe(recipe, place),
                sizes={"batch": batch},
                threads=threads,
                output=ours,
            )
            models[recipe] = ours / "model.onnx"
        times = contest(models, feeds, threads)

        def judge(path: Path) -> str:
            return f"top-1 {_accuracy(path, images, test['labels'], threads):.4f}"

        title = f"{network.name} batch {batch:4}"
        for _, line in standings(title, models, times, judge):
            yield line


def _accuracy(path: Path, images: Array, labels: Array, threads: int) -> float:
    with Worker(path, RuntimeOptions(threads)) as worker:
        parts = [worker.run({"x": images[k : k + 500]})[0] for k in range(0, len(images), 500)]
    return float(np.mean(np.concatenate(parts).argmax(1) == labels))
