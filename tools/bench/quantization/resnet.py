"""ResNet-20 (CIFAR-10): static int8 against float32 and against ONNX Runtime's own quantizer."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array
from whet.tools.bench.quantization.contest import Feeds, contest

__all__ = ["resnet"]

_MEAN = np.asarray((0.485, 0.456, 0.406), np.float32)
_STD = np.asarray((0.229, 0.224, 0.225), np.float32)


def resnet(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per batch and contender."""
    source = assets / "resnet_cifar10" / "resnet20.onnx"
    train = np.load(assets / "cifar10" / "train_10k.npz")
    test = np.load(assets / "cifar10" / "test_dev.npz")
    calibration = {"x": _images(train["x"][:512])}
    peer = folder / "ort.onnx"
    _quantize_static(source, peer, [{"x": calibration["x"][k : k + 64]} for k in range(0, 512, 64)])
    images = _images(test["x"])
    feeds = [{"x": images[k : k + 500]} for k in range(0, len(images), 500)]
    for batch in (1, 128):
        ours = folder / f"whet{batch}"
        data = {"x": calibration["x"]}
        compile(source, calibration=data, sizes={"batch": batch}, threads=threads, output=ours)
        models = {"float32": source, "onnxruntime": peer, "whet": ours / "model.onnx"}
        times = contest(models, {"x": images[:batch]}, threads)
        for name, path in models.items():
            with Worker(path, RuntimeOptions(threads)) as worker:
                found = np.concatenate([worker.run(f)[0] for f in feeds]).argmax(1)
            accuracy = float(np.mean(found == test["labels"]))
            size = path.stat().st_size
            yield (
                f"resnet20 batch {batch:4} {name:12} {times[name]} {size:,} bytes, top-1 {accuracy:.4f}"
            )


def _images(x: Array) -> Array:
    scaled = (x.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


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
