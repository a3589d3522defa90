"""NGswin (super-resolution by 2, attention in windows): static int8 against float32, and what stays in float and why.

Ranges come from windows of the same five pictures at a third and a quarter of their size: there are no other pictures.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.compiler import compile
from whet.ir.values import Array
from whet.report import Report
from whet.tools.bench.quantization.contest import contest, standings
from whet.tools.bench.quantization.rlfn import windows
from whet.tools.bench.super_resolution import decibels, quality, read_pairs

__all__ = ["ngswin"]

_RECIPES = {
    "whet auto": "auto",
    "whet int8, limit": "quantize-static{ranges=mse,limit=0.005}",
}
_SHOWN = 12


def ngswin(assets: Path, folder: Path, threads: int) -> Iterator[str]:
    """Yield one line per contender, then the layers that stayed in float, the most harmful first."""
    source = assets / "super_resolution" / "ngswin_x2.onnx"
    if not source.is_file():
        raise FileNotFoundError(f"no file '{source}'")
    pictures = assets / "super_resolution" / "Set5"
    seen = windows(pictures, (3, 4))
    models, said = {"float32": source}, dict[str, Report]()
    for name, recipe in _RECIPES.items():
        artifact = compile(
            source,
            calibration={"lr": seen},
            recipe=recipe,
            allow_noop=True,  # a limit may leave nothing that pays
            threads=threads,
            output=folder / name.replace(" ", "-"),
        )
        assert artifact.report is not None
        models[name], said[name] = artifact.folder / "model.onnx", artifact.report
    feeds = {"lr": np.ascontiguousarray(seen[:1])}
    times = contest(models, feeds, threads, rounds=7)
    pairs = read_pairs(pictures, 2)
    judge = decibels(source, lambda path: _mean(path, pairs, threads))
    for name, line in standings("ngswin", models, times, judge):
        yield line
        if name in said:
            yield from _spared(name, said[name])


def _spared(name: str, report: Report) -> Iterator[str]:
    rows = [row for step in report.steps for row in step.coverage.spared]
    for row in sorted(rows, key=lambda r: -r.error)[:_SHOWN]:
        yield f"ngswin {name}: '{row.site}' stays in float, alone it moves the output by {row.error:.1e}"
    if len(rows) > _SHOWN:
        yield f"ngswin {name}: {len(rows) - _SHOWN} more stay in float"


def _mean(model: Path, pairs: Mapping[str, tuple[Array, Array]], threads: int) -> float:
    with Worker(model, RuntimeOptions(threads)) as worker:
        return float(np.mean(list(quality(worker, pairs).values())))
