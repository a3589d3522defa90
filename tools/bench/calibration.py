"""Measure calibration against running the model alone on the same images: time and memory.

``python -m whet.tools.bench.calibration`` takes 512 images through ResNet-20 (CIFAR-10); it needs a folder with
``resnet_cifar10/resnet20.onnx`` and ``cifar10/train_10k.npz`` (``--assets``). Extremes, histograms and Gram matrices
are stated separately; each is timed in alternating blocks with the model alone, loading included on both sides. What is
calibrated is the model as the exact passes leave it, since that is what quantization asks about.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir

from whet.analysis.ranges import Ranges
from whet.analysis.statistics import PatchGram, Request, Statistics
from whet.backends.measure import Timing
from whet.ir.execute import Executor
from whet.ir.prepare import normalize
from whet.ir.residency import resident_bytes
from whet.ir.values import Array
from whet.passes.pipeline import Pipeline
from whet.passes.quantization.integer_steps import find_steps
from whet.passes.recipes import canonical, exact
from whet.passes.workbench import Context
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.quantization.resnet import RESNET20

__all__ = ["main"]

_BATCH = 32
_LIMIT = 1.5
"""What finding the extremes may take, as a multiple of running the model alone."""
Job = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each kind of statistic; return 1 if the extremes take longer than they may."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    source = options.assets / RESNET20.file
    data = options.assets / "cifar10" / "train_10k.npz"
    if not (source.is_file() and data.is_file()):
        print(f"skipped: no '{source}' or no '{data}'")
        return 0
    images = RESNET20.read(np.load(data)["x"][: options.images])
    found = _measure(source, images, options.rounds, options.threads)
    for line in found.values():
        print(line["text"])
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(float(found["extremes"]["ratio"]) > _LIMIT)


def _measure(
    source: Path, images: Array, rounds: int, threads: int
) -> dict[str, dict[str, float | str]]:
    model, _ = Pipeline((canonical(), exact())).run(normalize(onnx_ir.load(source)), Context())
    batches = [{"x": images[k : k + _BATCH]} for k in range(0, len(images), _BATCH)]
    context = Context(calibration=batches, threads=threads)
    found: dict[str, dict[str, float | str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_ir.save(model, path)
        alone = partial(_run, path, batches, threads)
        for name, (job, turns) in _jobs(model, context, rounds).items():
            times = _alternate(alone, job, turns)
            ratio = times[1].median / times[0].median
            grown = _growth(job)
            text = (
                f"{len(images)} images, {name}: {times[1]}, the model alone {times[0]}, {ratio:.2f}x; "
                f"{grown / 1e6:,.0f} MB more at the most"
            )
            found[name] = {"ratio": ratio, "ms": times[1].median, "growth": grown, "text": text}
    return found


def _jobs(model: onnx_ir.Model, context: Context, rounds: int) -> Mapping[str, tuple[Job, int]]:
    """Return what is measured, and in how many rounds."""
    steps, _ = find_steps(list(model.graph))
    names = dict.fromkeys(v.name or "" for step in steps for v in (*step.reads, *step.writes))
    ranges = {
        "extremes": Ranges(tuple(names)),
        "percentile": Ranges(tuple(names), 99.99),
        "mse": Ranges(tuple(names), method="mse"),
    }
    jobs: dict[str, tuple[Job, int]] = {
        name: (partial(r.measure, model, context), rounds) for name, r in ranges.items()
    }
    kinds = (("grams", True, 0), ("grams in float32", False, 0), ("grams of 64 places", True, 64))
    for name, wide, most in kinds:
        wanted = Statistics(_grams(model, exact=wide, most=most))
        jobs[name] = (partial(wanted.measure, model, context), 1 if most == 0 else 3)
    return jobs


def _grams(model: onnx_ir.Model, *, exact: bool, most: int) -> frozenset[Request]:
    return frozenset(
        (x.name or "", PatchGram.of(node, exact=exact, per_sample=most))
        for node in model.graph
        if node.op_type == "Conv" and (x := node.inputs[0]) is not None
    )


def _run(path: Path, batches: Sequence[Mapping[str, Array]], threads: int) -> None:
    executor = Executor(path, optimization="all", threads=threads, spin=True)
    for feeds in batches:
        executor.run(feeds)


def _alternate(one: Job, other: Job, rounds: int) -> list[Timing]:
    """Time two jobs in turn, in an order that turns over from round to round."""
    samples: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for k in order:
            start = time.perf_counter()
            (one, other)[k]()
            if number or rounds == 1:  # the first round warms up
                samples[k].append((time.perf_counter() - start) * 1e3)
            time.sleep(0.02)
    return [Timing.of(found) for found in samples]


def _growth(job: Job) -> int:
    """Return by how much this process grows while the job runs."""
    before, peak, done = resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        job()
    finally:
        done.set()
        watcher.join()
    return max(0, peak[0] - before)


if __name__ == "__main__":
    raise SystemExit(main())
