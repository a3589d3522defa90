"""TVM against ONNX Runtime, same threads, same run: ResNet-20, all-MiniLM-L6-v2, sparse layers and attention.

``attention`` has a bias that is a product of factors; there ONNX Runtime gets the better of its kernels with the bias,
ready-made, and the best of three with the factors appended. ``resnet20-int8`` (static) and ``minilm-int8`` (dynamic)
are what whet makes of the models for ONNX Runtime; they and attention are never tuned.

``linear-90`` is a linear layer of 768 inputs and 3,072 outputs; 90 % of its blocks (16 outputs, one input) are zero.
In ``random-90`` the zeros lie anywhere.

``python -m whet.tools.bench.tvm [--assets FOLDER] [--only NAME …] [--tune TIME] [--keep FOLDER] [--json FILE]``; with
``--keep`` artifacts stay in a folder, and a second run only measures. ``--tune`` adds a second artifact of each, whose
kernels are tuned for so long; said again, it goes on where it stopped.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from whet.backends.base import RuntimeOptions, find_target
from whet.backends.measure import compare_speed
from whet.backends.worker import Worker
from whet.comparison import relative_error
from whet.compiler import compile
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.saving import save_model
from whet.ir.values import Array
from whet.tools.bench.quantization.minilm_models import export
from whet.tools.bench.quantization.resnet import RESNET20
from whet.tools.bench.tvm_attention import (
    attention_error,
    attention_feeds,
    rivals,
    write_attention,
)

__all__ = ["LIMIT", "TUNED", "Row", "main", "measure"]

LIMIT = 2.0
"""TVM's time may be so many times ONNX Runtime's."""
TUNED = 1.3
"""The same for tuned artifacts."""
_CASES: Mapping[str, Sequence[Mapping[str, int]]] = {
    "resnet20": ({"batch": 1}, {"batch": 16}, {"batch": 128}),
    "resnet20-int8": ({"batch": 1}, {"batch": 16}, {"batch": 128}),
    "minilm": ({"batch": 1, "seq": 32}, {"batch": 1, "seq": 128}, {"batch": 8, "seq": 128}),
    "minilm-int8": ({"batch": 1, "seq": 32}, {"batch": 1, "seq": 128}, {"batch": 8, "seq": 128}),
    "linear-0": ({"batch": 128},),
    "linear-80": ({"batch": 128},),
    "linear-90": ({"batch": 128},),
    "random-80": ({"batch": 128},),
    "random-90": ({"batch": 1}, {"batch": 128}),
    "attention": (
        {"length": 512, "heads": 8, "head": 64, "rank": 8},
        {"length": 2048, "heads": 8, "head": 64, "rank": 8},
        {"length": 2048, "heads": 12, "head": 64, "rank": 8},
    ),
}
_TUNABLE = ("resnet20", "minilm", "linear")
_BLOCK = 16
_CALIBRATION = 128


@dataclasses.dataclass
class Row:
    """One model at one size."""

    model: str
    sizes: Mapping[str, int]
    compile_seconds: float
    source_ms: float
    """ONNX Runtime with all optimizations, on the source; attention with its bias."""
    rewritten_ms: float
    """The same, on what TVM was given; attention with factors."""
    tvm_ms: float
    """With the schedules that are usual."""
    tuned_ms: float | None
    error: float

    @property
    def ratio(self) -> float:
        """Return TVM's time over the better of ONNX Runtime's."""
        return self.tvm_ms / min(self.source_ms, self.rewritten_ms)

    @property
    def tuned_ratio(self) -> float:
        """Return the same for the tuned artifact, if there is one."""
        return (self.tuned_ms or self.tvm_ms) / min(self.source_ms, self.rewritten_ms)


def _feeds(name: str, sizes: Mapping[str, int]) -> dict[str, Array]:
    if name == "attention":
        return attention_feeds(sizes)
    draw = np.random.default_rng(0)
    if name.startswith("resnet20"):
        return {"x": draw.standard_normal((sizes["batch"], 3, 32, 32)).astype(np.float32)}
    if name.startswith(("linear", "random")):
        return {"x": draw.standard_normal((sizes["batch"], 768)).astype(np.float32)}
    ids = draw.integers(1000, 20000, (sizes["batch"], sizes["seq"]))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _source(name: str, sizes: Mapping[str, int], assets: Path, folder: Path) -> Path:
    if name == "resnet20":
        return assets / RESNET20.file
    if name.endswith("-int8"):
        return _quantized(name, sizes, assets, folder)
    path = folder / f"{name}.onnx"
    if name == "attention":
        return write_attention(sizes, path)
    if not path.exists() and name == "minilm":
        export(path)
    elif not path.exists():
        kind, _, zeros = name.partition("-")
        onnx.save(_linear(int(zeros) / 100, _BLOCK if kind == "linear" else 1), path)
    return path


def _quantized(name: str, sizes: Mapping[str, int], assets: Path, folder: Path) -> Path:
    """Return what whet makes of a model in 8 bits, without looking at a clock: static for images, else dynamic."""
    static = name == "resnet20-int8"
    out = folder / f"{name}-onnx"
    if (out / "model.onnx").exists():
        return out / "model.onnx"
    source = _source(name.removesuffix("-int8"), sizes, assets, folder)
    recipe = folder / f"{name}.toml"
    kind = "quantize-static" if static else "quantize-dynamic"
    recipe.write_text(f'base = "exact"\n\n[[pass]]\nname = "{kind}"\nprefer = "size"\n')
    seen = None
    if static:
        images = np.load(assets / "cifar10" / "train_10k.npz")["x"][:_CALIBRATION]
        seen = {"x": RESNET20.read(images)}
    compile(
        source, recipe=recipe, calibration=seen, sizes=sizes, measure=False, output=out, page=False
    )
    return out / "model.onnx"


def _linear(zeros: float, wide: int) -> onnx.ModelProto:
    """Return a linear layer with that share of its blocks zero, which are so many outputs wide."""
    draw = np.random.default_rng(0)
    matrix = draw.standard_normal((768, 3072)).astype(np.float32)
    matrix *= np.repeat(draw.random((768, 3072 // wide)) >= zeros, wide, axis=1)
    text = "(float[batch,768] x) => (float[batch,3072] y) { h = MatMul(x, w)  y = Add(h, b) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    for key, array in {"w": matrix, "b": draw.standard_normal(3072).astype(np.float32)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return model


def measure(
    name: str, sizes: Mapping[str, int], assets: Path, folder: Path, threads: int, tune: str = ""
) -> Row:
    """Compile one model for one size unless that was done, and time it."""
    source = _source(name, sizes, assets, folder)
    spelled = "-".join(f"{k}{v}" for k, v in sizes.items())
    out = folder / f"{name}-{spelled}"
    tuned = folder / f"{name}-{spelled}-tuned"
    note = out / "seconds.json"
    if not note.exists():
        start = time.perf_counter()
        if name.endswith("-int8"):
            _lower(source, out, name, sizes, threads)
        else:
            _compile(source, out, {} if name == "attention" else sizes, threads, "off")
        note.write_text(json.dumps(time.perf_counter() - start))
    if tune and name.partition("-")[0] in _TUNABLE and not name.endswith("-int8"):
        _compile(source, tuned, sizes, threads, tune)
    race = _race_attention if name == "attention" else _race
    times, error = race(name, sizes, source, (out, tuned), RuntimeOptions(threads=threads))
    tuned_ms = times[3] if times[3:] else None
    seconds = float(json.loads(note.read_text()))
    return Row(name, dict(sizes), seconds, times[0], times[1], times[2], tuned_ms, error)


def _compile(source: Path, out: Path, sizes: Mapping[str, int], threads: int, tune: str) -> None:
    target = f"tvm{{threads={threads},tune={tune}}}"
    made = compile(
        source, recipe="exact", target=target, sizes=sizes, measure=tune != "off", threads=threads,
        output=out, page=False, allow_noop=True,
    )  # fmt: skip
    assert made.report is not None
    if tune != "off":
        Console(width=118).print(*made.report.notes, sep="\n", highlight=False)


def _lower(source: Path, out: Path, name: str, sizes: Mapping[str, int], threads: int) -> None:
    """Write the library without holding it against the source.

    Where scales are chosen while the model runs, one code that falls on the other side of a tie moves all that follow:
    all-MiniLM-L6-v2 with every product in 8 bits answers to a change of 1e-6 in one weight with one of 0.13.
    """
    target = find_target(f"tvm{{threads={threads},tune=off}}")
    feeds = _feeds(name, sizes)
    settled, fixed = target.settle(normalize(load_model(source)), feeds, sizes, 0)
    path, exact = source.with_name(f"{out.name}.onnx"), source.with_name(f"{out.name}-exact")
    save_model(fixed, path)
    compile(
        path, recipe="exact", measure=False, threads=threads, output=exact, page=False,
        allow_noop=True,
    )  # fmt: skip
    out.mkdir()
    settled.lower(normalize(load_model(exact / "model.onnx")), out)


def _race(
    name: str,
    sizes: Mapping[str, int],
    source: Path,
    artifacts: tuple[Path, Path],
    options: RuntimeOptions,
) -> tuple[list[float], float]:
    """Return the times of ONNX Runtime on both models, of TVM, also tuned if it is; and TVM's error."""
    out, tuned = artifacts
    opened = [(source, "onnxruntime"), (out / "model.onnx", "onnxruntime"), (out, "tvm")]
    opened += [(tuned, "tvm")] if tuned.is_dir() else []
    feeds = _feeds(name, sizes)
    with contextlib.ExitStack() as held:
        workers = [held.enter_context(Worker(path, options, kind)) for path, kind in opened]
        expected, *found = (worker.run(feeds) for worker in (workers[0], *workers[2:]))
        error = max(
            relative_error(e, y)[0] for ys in found for e, y in zip(expected, ys, strict=True)
        )
        times = compare_speed(workers, [feeds] * len(workers))
    return [t.median for t in times], error


def _race_attention(
    name: str,
    sizes: Mapping[str, int],
    source: Path,
    artifacts: tuple[Path, Path],
    options: RuntimeOptions,
) -> tuple[list[float], float]:
    """Return the best times of ONNX Runtime with the bias and with factors, and that of TVM, and TVM's error."""
    del source
    out, _ = artifacts
    others = list(rivals(sizes, out))
    feeds = [*(given for _, _, given in others), _feeds(name, sizes)]
    with contextlib.ExitStack() as held:
        workers = [held.enter_context(Worker(path, options)) for _, path, _ in others]
        workers.append(held.enter_context(Worker(out, options, "tvm")))
        error = attention_error(sizes, workers[-1].run(feeds[-1])[0])
        times = [t.median for t in compare_speed(workers, feeds)]
    best = [
        min(t for (means, _, _), t in zip(others, times[:-1], strict=True) if means == kind)
        for kind in ("bias", "factors")
    ]
    return [*best, times[-1]], error


def _rows(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    for name, cases in _CASES.items():
        if options.only and name not in options.only:
            continue
        for sizes in cases:
            yield measure(name, sizes, options.assets, folder, options.threads, options.tune)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 if TVM is too slow somewhere."""
    parser = argparse.ArgumentParser(prog="python -m whet.tools.bench.tvm", description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared/assets"))
    parser.add_argument("--only", nargs="*", choices=list(_CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tune", default="", metavar="TIME")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(_rows(options, folder))
    _show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    slow = any(row.ratio > LIMIT for row in rows)
    return int(slow or any(row.tuned_ms and row.tuned_ratio > TUNED for row in rows))


def _show(rows: Sequence[Row]) -> None:
    table = Table(box=None)
    table.add_column("model")
    for head in (
        "sizes", "compile s", "ORT ms", "ORT, rewritten", "TVM ms", "ratio", "tuned ms", "ratio", "error",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            " ".join(f"{k}={v}" for k, v in row.sizes.items()),
            f"{row.compile_seconds:.1f}",
            *(f"{ms:.3g}" for ms in (row.source_ms, row.rewritten_ms, row.tvm_ms)),
            f"{row.ratio:.2f}",
            "" if row.tuned_ms is None else f"{row.tuned_ms:.3g}",
            "" if row.tuned_ms is None else f"{row.tuned_ratio:.2f}",
            f"{row.error:.0e}",
        )
    Console(width=118).print(table)


if __name__ == "__main__":
    sys.exit(main())
