"""Measure what a compiled super-resolution transformer loses: PSNR on Set5, against its source.

``python -m whet.tools.bench.super_resolution``: ``super_resolution/ngswin_x2.onnx`` (attention in windows of 64 with
learned bias tables, input fixed at 64x64) below ``--assets``. Images are cut into overlapping windows; of each, what
is nearest to its middle is kept.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing, compare_speed
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array
from whet.printing import new_table, summarize, titled
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.png import read_png
from whet.tools.sweep.bias_recipes import RECIPES, is_bias_pass, write_recipe

__all__ = ["decibels", "fed", "luma", "main", "psnr", "quality", "read_pairs", "upscale"]

_SCALE = 2
_WINDOW = 64
_SHOWN = 6
"""Lines printed on what became of the biases; alike but for numbers, there can be dozens."""
_OVERLAP = 16
"""Pixels that neighbouring windows share."""


def luma(image: Array) -> NDArray[np.float64]:
    """Return Y of ``[height, width, 3]`` in 0..255: (65.481 R + 128.553 G + 24.966 B) / 255 + 16."""
    weights = np.array([65.481, 128.553, 24.966])
    return np.asarray(image.astype(np.float64) @ weights / 255 + 16, np.float64)


def psnr(image: Array, truth: Array, border: int = _SCALE) -> float:
    """Return 10 log10(255² / mean square error) of the lumas, in dB, a border left out."""
    inner = slice(border, -border)
    away = (luma(image) - luma(truth))[inner, inner]
    return float(10 * np.log10(255**2 / np.mean(away**2)))


def decibels(source: Path, judge: Callable[[Path], float]) -> Callable[[Path], str]:
    """Return what says a model's decibels, and how far they are from the source's."""
    judge = functools.cache(judge)
    return lambda path: f"{judge(path):.3f} dB ({judge(path) - judge(source):+.3f})"


def upscale(run: Callable[[Array], Array], image: Array) -> Array:
    """Enlarge ``[height, width, 3]`` of 0..255 with what enlarges ``[1, 3, 64, 64]`` of 0..1; the result is rounded.

    Where windows overlap, the seam lies in the middle of what they share.
    """
    height, width = image.shape[:2]
    out = np.zeros((_SCALE * height, _SCALE * width, 3))
    for top in _starts(height):
        for left in _starts(width):
            window = image[top : top + _WINDOW, left : left + _WINDOW]
            made = run(fed(window))[0].transpose(1, 2, 0)
            # Later windows overwrite all but the first half of what they share with earlier ones.
            down, right = (_SCALE * (_OVERLAP // 2 if start else 0) for start in (top, left))
            rows = slice(_SCALE * top + down, _SCALE * (top + _WINDOW))
            columns = slice(_SCALE * left + right, _SCALE * (left + _WINDOW))
            out[rows, columns] = made[down:, right:]
    return np.asarray(np.rint(np.clip(out, 0, 1) * 255))


def _starts(size: int) -> list[int]:
    """Return where windows begin; the last one ends at the border."""
    if size < _WINDOW:
        raise ValueError(f"an image has a side of {size}, the window {_WINDOW}")
    regular = range(0, size - _WINDOW, _WINDOW - _OVERLAP)
    return [*regular, size - _WINDOW]


@dataclasses.dataclass
class Row:
    """One model: its recipe, its quality image by image, its speed on one window."""

    recipe: str
    decibels: dict[str, float]
    time: Timing
    said: list[str]
    """What became of the biases, place by place."""

    @property
    def mean(self) -> float:
        """Return the mean over the images."""
        return float(np.mean(list(self.decibels.values())))


def measure(assets: Path, recipes: Sequence[str], images: int, threads: int) -> list[Row]:
    """Compile with each recipe and measure, the source first; raises FileNotFoundError where assets are missing."""
    folder = assets / "super_resolution"
    source = folder / "ngswin_x2.onnx"
    if not source.is_file():
        raise FileNotFoundError(f"no file '{source}'")
    pairs = dict(itertools.islice(read_pairs(folder / "Set5", _SCALE).items(), images))
    with tempfile.TemporaryDirectory() as scratch:
        models, said = {"source": source}, {"source": list[str]()}
        for name in recipes:
            recipe = write_recipe(name, Path(scratch))
            if recipe is None:
                continue
            models[name] = Path(scratch) / name
            said[name] = _compile(source, pairs, recipe, models[name], threads)
        return _rows(models, said, pairs, threads)


def read_pairs(folder: Path, scale: int) -> dict[str, tuple[Array, Array]]:
    """Return name -> picture made smaller by ``scale``, picture."""
    found: dict[str, tuple[Array, Array]] = {}
    for path in sorted((folder / "HR").glob("*.png")):
        low = folder / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        found[path.stem] = (read_png(low), read_png(path))
    if not found:
        raise FileNotFoundError(f"no images in '{folder / 'HR'}'")
    return found


def _compile(
    source: Path,
    pairs: Mapping[str, tuple[Array, Array]],
    recipe: str | Path,
    output: Path,
    threads: int,
) -> list[str]:
    """Compile; where factors are wanted always, the gate that would take slow ones back stays off."""
    windows = [fed(low[:_WINDOW, :_WINDOW]) for low, _ in pairs.values()]
    artifact = compile(
        source,
        calibration={"lr": np.concatenate(windows)},
        recipe=recipe,
        measure="always" not in str(recipe),
        threads=threads,
        output=output,
    )
    assert artifact.report is not None
    said: list[str] = []
    for step in artifact.report.steps:
        if is_bias_pass(step.name):
            said.append(f"{step.name}: {step.coverage.changed} of {step.coverage.matched} places")
            said += [f"{step.name}: {reason}" for reason in summarize(step.coverage.declined)]
            said += [f"{step.name}: taken back: {step.reverted}"] * bool(step.reverted)
    return said


def fed(window: Array) -> Array:
    """Return ``[1, 3, height, width]`` in 0..1."""
    scaled = (window.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(scaled)


def _rows(
    models: Mapping[str, Path],
    said: Mapping[str, list[str]],
    pairs: Mapping[str, tuple[Array, Array]],
    threads: int,
) -> list[Row]:
    feeds = {"lr": fed(next(iter(pairs.values()))[0][:_WINDOW, :_WINDOW])}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(path, RuntimeOptions(threads))) for path in models.values()
        ]
        times = compare_speed(workers, [feeds] * len(workers), rounds=9)
        return [
            Row(name, quality(worker, pairs), time, said[name])
            for name, worker, time in zip(models, workers, times, strict=True)
        ]


def quality(worker: Worker, pairs: Mapping[str, tuple[Array, Array]]) -> dict[str, float]:
    """Return the decibels of each picture, enlarged window by window."""
    found: dict[str, float] = {}
    for name, (low, high) in pairs.items():
        made = upscale(lambda window: worker.run({"lr": window})[0], low)
        found[name] = psnr(made, high[: made.shape[0], : made.shape[1]])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per recipe; without the assets, the reason for skipping."""
    parser = argument_parser(__doc__)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES)[:-1])
    parser.add_argument("--images", type=int, default=5, help="this many of the five")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    console = Console(width=110)
    try:
        rows = measure(options.assets, options.recipes, options.images, options.threads)
    except FileNotFoundError as error:
        console.print(f"super-resolution: skipped: {error}", markup=False)
        plain: object = {"skipped": str(error)}
    else:
        _print(rows, console)
        plain = [{**dataclasses.asdict(row), "mean": row.mean} for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


def _print(rows: Sequence[Row], console: Console) -> None:
    table = new_table()
    table.add_column("recipe", no_wrap=True)
    for name in (
        "PSNR-Y, mean",
        "against the source",
        "worst image",
        "one window",
        "of the source",
    ):
        table.add_column(name, justify="right")
    first = rows[0]
    for row in rows:
        away = {image: row.decibels[image] - first.decibels[image] for image in row.decibels}
        worst = max(away, key=lambda image: abs(away[image]))
        table.add_row(
            *(row.recipe, f"{row.mean:.3f} dB", f"{row.mean - first.mean:+.4f} dB"),
            *(f"{worst} {away[worst]:+.4f}", str(row.time)),
            f"{row.time.median / first.time.median:.3f}",
        )
    title = f"ngswin_x2 on Set5, {len(first.decibels)} images"
    console.print(titled(title, table))
    for row in rows:
        hidden = len(row.said) - _SHOWN
        for line in row.said[:_SHOWN] + [f"{hidden} reasons more, see --json"] * (hidden > 0):
            console.print(f"{row.recipe}: {line}", markup=False, highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
