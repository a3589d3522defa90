"""ONNX Runtime's own static quantizer, in the best of its settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from whet.tools.bench.quantization.contest import Feeds, contest

__all__ = ["best_static"]

_SETTINGS: Mapping[str, tuple[str, bool]] = {
    "min-max": ("MinMax", False),
    "min-max, reduced": ("MinMax", True),
    "percentile": ("Percentile", False),
}
"""Name -> calibration method, and whether weights have seven bits."""


class _Reader:
    """Hand batches to the calibrator."""

    def __init__(self, batches: Sequence[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def best_static(
    source: Path, folder: Path, batches: Sequence[Feeds], feeds: Feeds, threads: int
) -> tuple[str, Path]:
    """Quantize with every setting (u8s8, Q/DQ, a scale per channel); return the fastest one's name and file."""
    made: dict[str, Path] = {}
    for name, (method, reduced) in _SETTINGS.items():
        path = folder / f"ort-{method}-{reduced}.onnx"
        if not path.is_file():
            _quantize(source, path, batches, method, reduced)
        made[name] = path
    times = contest(made, feeds, threads)
    best = min(made, key=lambda name: times[name].median)
    return best, made[best]


def _quantize(
    source: Path, path: Path, batches: Sequence[Feeds], method: str, reduced: bool
) -> None:
    from onnxruntime import quantization

    run = cast("Callable[..., None]", quantization.quantize_static)
    kinds: Any = quantization.CalibrationMethod
    run(
        source,
        path,
        _Reader(batches),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduced,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=getattr(kinds, method),
    )
