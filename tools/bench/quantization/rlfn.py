"""RLFN (super-resolution by 4): static int8 against float32, in milliseconds and in dB on Set5.

Ranges come from windows of the same five pictures at half and a third of their size: there are no other pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array
from whet.tools.bench.png import read_png
from whet.tools.bench.quantization.contest import contest, standings
from whet.tools.bench.quantization.peers import best_static
from whet.tools.bench.quantization.recipes import LIMITED, RECIPES, write_recipe
from whet.tools.bench.super_resolution import decibels, fed, psnr, read_pairs

__all__ = ["rlfn", "windows"]

_SIDE, _WINDOW, _SCALE = 128, 64, 4


def rlfn(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per contender."""
    source = assets / "super_resolution" / "rlfn_x4.onnx"
    if not source.is_file():
        raise FileNotFoundError(f"no file '{source}'")
    pictures = assets / "super_resolution" / "Set5"
    seen = windows(pictures, (2, 3))
    feeds = {"lr": np.random.default_rng(0).random((1, 3, _SIDE, _SIDE), np.float32)}
    parts = [{"lr": seen[k : k + 1]} for k in range(len(seen))]
    setting, peer = best_static(source, folder, parts, feeds, threads)
    models = {"float32": source, f"onnxruntime ({setting})": peer}
    for recipe in [*list(RECIPES)[:2], *LIMITED]:
        ours = folder / recipe.replace(" ", "-")
        compile(
            source,
            calibration={"lr": seen},
            recipe=write_recipe(recipe, folder),
            sizes={"h": _SIDE, "w": _SIDE},
            threads=threads,
            output=ours,
        )
        models[recipe] = ours / "model.onnx"
    times = contest(models, feeds, threads, opened=3)
    pairs = read_pairs(pictures, _SCALE)
    judge = decibels(source, lambda path: _mean(path, pairs, threads))
    for _, line in standings(f"rlfn {_SIDE}x{_SIDE}", models, times, judge):
        yield line


def windows(pictures: Path, scales: Sequence[int]) -> Array:
    """Return windows ``[count, 3, 64, 64]`` of the pictures, made smaller by each of the factors."""
    found: list[Array] = []
    for scale in scales:
        for path in sorted((pictures / "LR_bicubic" / f"X{scale}").glob("*.png")):
            image = read_png(path)
            down, right = (max(0, side - _WINDOW) for side in image.shape[:2])
            for k in range(3):
                top, left = down * k // 2, right * (2 * k % 3) // 2
                found.append(fed(image[top : top + _WINDOW, left : left + _WINDOW]))
    whole = [window for window in found if window.shape[2:] == (_WINDOW, _WINDOW)]
    if not whole:
        raise FileNotFoundError(f"no pictures in '{pictures}'")
    return np.concatenate(whole)


def _mean(model: Path, pairs: Mapping[str, tuple[Array, Array]], threads: int) -> float:
    found: list[float] = []
    with Worker(model, RuntimeOptions(threads)) as worker:
        for low, high in pairs.values():
            made = worker.run({"lr": fed(low)})[0][0].transpose(1, 2, 0)
            shown = np.rint(np.clip(made, 0, 1) * 255)
            found.append(psnr(shown, high[: shown.shape[0], : shown.shape[1]], _SCALE))
    return float(np.mean(found))
