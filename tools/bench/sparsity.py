"""Sparse ResNet-20 (CIFAR-10) in one shot, nothing tuned: methods, budgets and patterns by top-1 and bytes.

``python -m whet.tools.bench.sparsity [--images 1024] [--gradients 2048] [--only NAME …] [--json FILE]``
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from rich.console import Console
from rich.table import Table

from whet.analysis.dataset import Dataset
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.values import Array
from whet.passes.sparsity.sparsify_weights import SparsifyWeights
from whet.passes.workbench import Context, Workbench
from whet.solve.losses import divergence
from whet.tools.bench.quantization.resnet import RESNET20

__all__ = ["CONTENDERS", "GOALS", "Row", "contenders", "main", "measure", "missed"]

_BATCH = 64

CONTENDERS: Mapping[str, SparsifyWeights] = {
    "magnitude": SparsifyWeights(method="magnitude", budget="uniform", update=False),
    "magnitude, global": SparsifyWeights(method="magnitude", budget="global", update=False),
    "magnitude, updated": SparsifyWeights(method="magnitude", budget="uniform"),
    "Wanda, CFSP budget, updated": SparsifyWeights(method="wanda", budget="cfsp"),
    "magnitude, PQ budget, updated": SparsifyWeights(method="magnitude", budget="pq"),
    "Gram OBS": SparsifyWeights(method="gram", budget="uniform"),
    "Gram OBS, second-order budget": SparsifyWeights(method="gram"),
    "M-FAC": SparsifyWeights(method="mfac", likelihood="categorical"),
    "Fisher OBS, second-order budget": SparsifyWeights(method="fisher", likelihood="categorical"),
}
"""What is compared, at every sparsity; patterns that fix their own share take those that name no budget."""
GOALS: Mapping[str, float] = {"0.5": 0.01, "2:4": 0.015}
"""How much top-1 the best may lose."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One network."""

    what: str
    method: str
    top1: float
    divergence: float
    """Mean KL(dense || pruned) on the test images: it resolves what top-1 of a few thousand images does not."""
    bytes: int
    """Of the file."""
    zeros: float
    updated: str
    """At how many weights the update was kept, of how many."""
    seconds: float


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the dense network and every contender."""
    train = np.load(options.assets / "cifar10" / "train_10k.npz")
    test = np.load(options.assets / "cifar10" / "test_dev.npz")
    images, labels = RESNET20.read(test["x"][: options.test]), test["labels"][: options.test]
    data = Dataset(({"x": RESNET20.read(train["x"][: options.images])},))
    source = options.assets / RESNET20.file
    dense = normalize(load_model(source))
    logits = _logits(dense, images)
    yield Row("dense", "", _top1(logits, labels), 0.0, _bytes(dense), 0.0, "", 0.0)
    for what in options.shares:
        for name, step in contenders(what, options):
            model, start = dense.clone(), time.perf_counter()
            work = _apply(model, step, data)
            seconds = time.perf_counter() - start
            kept = sum(", updated" in d.format for d in work.coverage.damage)
            found = _logits(model, images)
            yield Row(
                what,
                name,
                _top1(found, labels),
                divergence(logits, found),
                _bytes(model),
                _zeros(work),
                f"{kept} of {len(work.coverage.damage)}" if step.update else "",
                seconds,
            )


def contenders(what: str, options: argparse.Namespace) -> Iterator[tuple[str, SparsifyWeights]]:
    """Yield the passes of one share or pattern, by name."""
    fixed = ":" in what
    pattern = what if fixed or "x" in what else "unstructured"
    share = 0.5 if pattern != "unstructured" else float(what)
    for name, step in CONTENDERS.items():
        if options.only and name not in options.only:
            continue
        if fixed and ("budget" in name or "global" in name) and not name.startswith("Fisher"):
            continue
        label = name.partition(",")[0] if fixed and name.startswith("Fisher") else name
        gradients = min(options.gradients, 512) if step.method == "mfac" else options.gradients
        changed = dataclasses.replace(step, sparsity=share, pattern=pattern, gradients=gradients)
        yield label, changed


def _apply(model: onnx_ir.Model, step: SparsifyWeights, data: Dataset) -> Workbench:
    fit, judge = data.held_out()
    context = Context(
        bindings=Bindings(({"batch": 2}, {"batch": 3})),
        calibration=fit.batches(_BATCH),
        held_out=judge.batches(_BATCH),
    )
    work = Workbench(model, step, context)
    step.apply(work)
    return work


def _zeros(work: Workbench) -> float:
    """Return the share of zeros among the weights that were changed."""
    shares = [float(d.format.partition("%")[0]) / 100 for d in work.coverage.damage]
    sizes = [d.bytes_before for d in work.coverage.damage]
    return float(np.average(shares, weights=sizes)) if sizes else 0.0


def _bytes(model: onnx_ir.Model) -> int:
    return len(onnx_ir.to_proto(model).SerializeToString())


def _logits(model: onnx_ir.Model, images: Array) -> Array:
    executor = Executor(onnx_ir.to_proto(model), optimization="all")
    parts = [executor.run({"x": images[k : k + 250]})[0] for k in range(0, len(images), 250)]
    return np.concatenate(parts)


def _top1(logits: Array, labels: Array) -> float:
    return float(np.mean(logits.argmax(1) == labels))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 1 where the best misses its goal, or divergences are not in the expected order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared/assets"))
    parser.add_argument(
        "--images", type=int, default=1024, help="for calibration, a tenth held out"
    )
    parser.add_argument("--gradients", type=int, default=2048)
    parser.add_argument("--test", type=int, default=5000, help="test images")
    parser.add_argument("--shares", nargs="*", default=["0.5", "0.7", "0.8", "2:4", "4x1"])
    parser.add_argument("--only", nargs="*", help="contenders")
    parser.add_argument("--json", type=Path, help="store the rows in this file")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    for row in measure(options):
        rows.append(row)
        seen = f"{row.top1:.4f}, divergence {row.divergence:.4f}, {row.seconds:.0f} s"
        print(f"{row.what} {row.method}: {seen}", file=sys.stderr, flush=True)
    Console(width=120).print(_table(rows))
    if options.json is not None:
        found = [dataclasses.asdict(row) for row in rows]
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    lines = missed(rows)
    for line in lines:
        print(line)
    return 1 if lines else 0


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="ResNet-20, one shot")
    for name in (
        "",
        "method",
        "top-1",
        "divergence",
        "bytes",
        "of dense",
        "zeros",
        "updates kept",
        "seconds",
    ):
        table.add_column(name, justify="left" if name in ("", "method") else "right")
    for row in rows:
        table.add_row(
            row.what,
            row.method,
            f"{row.top1:.4f}",
            f"{row.divergence:.4f}",
            f"{row.bytes:,}",
            f"{row.bytes / rows[0].bytes:.3f}x",
            f"{row.zeros:.1%}",
            row.updated,
            f"{row.seconds:.0f}",
        )
    return table


def missed(rows: Sequence[Row]) -> list[str]:
    """Return which goals the rows miss, as sentences."""
    found: list[str] = []
    for what in dict.fromkeys(row.what for row in rows[1:]):
        best = max(row.top1 for row in rows if row.what == what)
        lost, goal = rows[0].top1 - best, GOALS.get(what)
        if goal is not None and lost > goal:
            found.append(f"{what}: the best loses {lost:.4f}, {goal} are allowed")
        by_name = {row.method: row.divergence for row in rows if row.what == what}
        order: list[str] = [n for n in ("magnitude", "Gram OBS") if n in by_name]
        order += [n for n in by_name if n.startswith("Fisher")]
        for worse, better in itertools.pairwise(order):
            if by_name[better] >= by_name[worse]:
                found.append(
                    f"{what}: {better} diverges by {by_name[better]:.4f}, {worse} by {by_name[worse]:.4f}"
                )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
