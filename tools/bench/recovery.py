"""Recover ResNet-20 (CIFAR-10) without labels after weights were zeroed or channels removed: top-1, steps, seconds.

``python -m whet.tools.bench.recovery [--minutes 5] [--steps N] [--cases 50% 70% 80% channels] [--what perp all]``

The smallest weights of every layer are zeroed and stay zero; ``channels`` removes 30 % of the multiplications
(``prune-structure``). What is tuned on are training images without their labels; top-1 is that of test images.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.dataset import Dataset
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.values import Array, constant
from whet.passes.base import Change, Fidelity, Pass, Tuning
from whet.passes.pipeline import Pipeline
from whet.passes.recovery.recover import Recover
from whet.passes.registry import all_passes, make_pass
from whet.passes.workbench import Context, Workbench
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.quantization.resnet import RESNET20

__all__ = ["Row", "ZeroSmallest", "main", "measure"]

_BATCH = 64
_CHANNELS = "channels"


@dataclasses.dataclass(frozen=True)
class ZeroSmallest(Pass):
    """Zero the smallest share of every weight of a convolution or product."""

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    share: float = 0.5

    def apply(self, work: Workbench) -> None:
        """Give every layer a weight with zeros."""
        for node in work.nodes("Conv", "Gemm", "MatMul"):
            old = node.inputs[1]
            array = constant(old)
            if old is None or array is None:
                continue
            size = np.abs(array)
            name = work.fresh(old.name or "weight")
            kept = np.where(size > np.quantile(size, self.share), array, 0).astype(array.dtype)
            new = onnx_ir.Value(
                name=name,
                shape=old.shape,
                type=old.type,
                const_value=onnx_ir.tensor(kept, name=name),
            )
            work.graph.register_initializer(new)
            old.replace_all_uses_with(new)
            work.changed_by_hand(1, "zeros, as they were asked for")


@dataclasses.dataclass(frozen=True)
class Row:
    """One recovery."""

    case: str
    what: str
    original: float
    damaged: float
    recovered: float
    """Top-1 of test images."""
    tuning: Tuning

    def __str__(self) -> str:
        """Say it in a line."""
        t = self.tuning
        return (
            f"{self.case:9} {self.what:5} top-1 {self.damaged:.4f} → {self.recovered:.4f}"
            f" (original {self.original:.4f}), held-out distance {t.before:.4g} → {t.after:.4g},"
            f" {t.steps} steps in {t.seconds:.0f} s"
            f" (ended by {t.stopped}), {t.elements:,} numbers"
        )


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for every case and kind of recovery."""
    train = np.load(options.assets / "cifar10" / "train_10k.npz")
    test = np.load(options.assets / "cifar10" / "test_dev.npz")
    images, labels = RESNET20.read(test["x"][: options.test]), test["labels"][: options.test]
    data = Dataset(({"x": RESNET20.read(train["x"][: options.images])},))
    source = normalize(load_model(options.assets / RESNET20.file))
    original = _top1(source, images, labels, options.threads)
    for case in options.cases:
        damage = _damage(case)
        if damage is None:
            print(f"{case}: skipped, there is no pass prune-structure", file=sys.stderr)
            continue
        for what in options.what:
            context = _context(data, options)
            model, _ = Pipeline((damage,)).run(source.clone(), context)
            damaged = _top1(model, images, labels, options.threads)
            context.original = source
            model, steps = Pipeline((_recover(what, options),)).run(model, context)
            for tuning in steps[0].coverage.tunings:
                recovered = _top1(model, images, labels, options.threads)
                yield Row(case, what, original, damaged, recovered, tuning)


def _damage(case: str) -> Pass | None:
    """Return what a case does to the network; None where the pass is missing."""
    if case != _CHANNELS:
        return ZeroSmallest(float(case.rstrip("%")) / 100)
    if "prune-structure" not in all_passes():
        return None
    return make_pass("prune-structure", {"ratio": "0.3", "cost": "macs"})


def _recover(what: Literal["perp", "all"], options: argparse.Namespace) -> Recover:
    return Recover(
        what=what,
        minutes=options.minutes,
        steps=options.steps,
        rate=options.rate,
        loss=options.loss,
        augment=options.augment,
        rank=options.rank,
        precision=options.precision,
    )


def _context(data: Dataset, options: argparse.Namespace) -> Context:
    fit, judge = data.held_out()

    def tell(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    return Context(
        bindings=Bindings(({"batch": 2}, {"batch": 3})),
        calibration=fit.batches(_BATCH),
        held_out=judge.batches(_BATCH),
        threads=options.threads,
        progress=tell if options.verbose else lambda _message: None,
    )


def _top1(model: onnx_ir.Model, images: Array, labels: Array, threads: int) -> float:
    executor = Executor(onnx_ir.to_proto(model), optimization="all", threads=threads)
    parts = [executor.run({"x": images[k : k + 250]})[0] for k in range(0, len(images), 250)]
    return float(np.mean(np.concatenate(parts).argmax(1) == labels))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for every recovery; what needs data that are not there is skipped with the reason."""
    parser = argument_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=["50%", "70%", "80%", _CHANNELS])
    parser.add_argument("--what", nargs="+", choices=["perp", "all"], default=["perp", "all"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=Recover.steps)
    parser.add_argument("--rate", type=float, default=Recover.rate)
    parser.add_argument("--rank", type=int, default=Recover.rank)
    parser.add_argument("--loss", choices=["outputs", "divergence", "features"], default="outputs")
    parser.add_argument("--augment", choices=["none", "flip", "shift"], default="none")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--images", type=int, default=10_000, help="to tune on")
    parser.add_argument("--test", type=int, default=5_000, help="images that top-1 is of")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(argv)
    needed = [RESNET20.file, "cifar10/train_10k.npz", "cifar10/test_dev.npz"]
    for missing in (name for name in needed if not (options.assets / name).is_file()):
        print(f"skipped: no '{options.assets / missing}'")
        return 0
    rows: list[dict[str, object]] = []
    for row in measure(options):
        print(row, flush=True)
        rows.append(dataclasses.asdict(row))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
