"""How far a pass moved the model's outputs, on samples that nothing was fitted on."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir

from whet.analysis.activations import first_samples
from whet.analysis.dataset import leading
from whet.ir.execute import CannotRun, Executor
from whet.ir.files import save_model
from whet.ir.values import Array

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["OutputDamage", "OutputError", "output_damage", "squares"]

Feeds = Mapping[str, Array]
_MOST_BATCHES = 8
_MOST_BYTES = 1 << 26
"""Outputs of the model before the pass that are kept while the one after it is loaded; one batch always is."""


@dataclasses.dataclass(frozen=True)
class OutputDamage:
    """What one output of the model lost through one pass."""

    output: str
    error: float
    """||after - before|| / ||before|| over all samples together."""
    sqnr: float
    """-20 log10(error), in dB."""
    samples: int

    @classmethod
    def of(cls, output: str, lost: float, whole: float, samples: int) -> "OutputDamage":
        """Make one of squared norms."""
        if lost == 0.0:
            return cls(output, 0.0, math.inf, samples)
        error = math.sqrt(lost / whole) if whole > 0 else math.inf
        return cls(output, error, -20 * math.log10(error) if error > 0 else math.inf, samples)


class OutputError:
    """How far other models are from one model's outputs, on a few samples that stay in memory."""

    def __init__(self, model: onnx_ir.Model, context: "Context", most: int = 8) -> None:
        """Run ``model`` on up to ``most`` samples of the data to judge by; raises CannotRun."""
        self._threads = context.threads
        self._feeds: list[Feeds] = []
        left = most
        for number in range(len(context.judge)):
            if left <= 0:
                break
            feeds = first_samples(model, context.judge[number], left)
            left -= leading(feeds) or 1
            self._feeds.append(feeds)
        self._wanted = self._run(onnx_ir.to_proto(model))

    def of(self, model: onnx.ModelProto) -> float:
        """Return ||new - old|| / ||old|| over all samples, of the output where it is largest."""
        found = self._run(model)
        count = len(self._wanted[0]) if self._wanted else 0
        lost, whole = np.zeros(count), np.zeros(count)
        for old, new in zip(self._wanted, found, strict=True):
            for k, pair in enumerate(zip(old, new, strict=True)):
                part = squares(*pair)
                lost[k] += part[0]
                whole[k] += part[1]
        return max((o.error for o in map(_measured, lost, whole)), default=0.0)

    def _run(self, model: onnx.ModelProto) -> list[list[Array]]:
        executor = Executor(model, optimization="all", threads=self._threads)
        return [
            executor.run({n: a for n, a in feeds.items() if n in executor.inputs})
            for feeds in self._feeds
        ]


def _measured(lost: float, whole: float) -> OutputDamage:
    return OutputDamage.of("", float(lost), float(whole), 0)


def output_damage(
    before: onnx_ir.Model, after: onnx_ir.Model, batches: Sequence[Feeds], threads: int = 0
) -> tuple[OutputDamage, ...]:
    """Run both models, one after the other, and compare their outputs; empty where one of them does not run."""
    names = [v.name or "" for v in before.graph.outputs]
    try:
        kept = _outputs(before, batches, threads)
        executor = _open(after, threads)
        lost, whole = np.zeros(len(names)), np.zeros(len(names))
        samples = 0
        for feeds, old in kept:
            new = executor.run({n: a for n, a in feeds.items() if n in executor.inputs})
            samples += max((len(a) for a in feeds.values() if a.ndim), default=1)
            for k, (o, n) in enumerate(zip(old, new, strict=True)):
                part = squares(o, n)
                lost[k] += part[0]
                whole[k] += part[1]
    except CannotRun:
        return ()
    return tuple(
        OutputDamage.of(name, float(lost[k]), float(whole[k]), samples)
        for k, name in enumerate(names)
    )


def _outputs(
    model: onnx_ir.Model, batches: Sequence[Feeds], threads: int
) -> list[tuple[Feeds, list[Array]]]:
    executor = _open(model, threads)
    found: list[tuple[Feeds, list[Array]]] = []
    size = 0
    for number in range(min(len(batches), _MOST_BATCHES)):
        feeds = batches[number]
        old = executor.run({n: a for n, a in feeds.items() if n in executor.inputs})
        size += sum(a.nbytes for a in old)
        if found and size > _MOST_BYTES:
            break
        found.append((feeds, old))
    return found


def _open(model: onnx_ir.Model, threads: int) -> Executor:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return Executor(path, optimization="all", threads=threads)


def squares(old: Array, new: Array) -> tuple[float, float]:
    """Return ||new - old||² and ||old||²; what was not finite before must be so afterwards."""
    if old.dtype.kind not in "fiub":
        return 0.0, 0.0
    if old.shape != new.shape:
        return math.inf, 1.0
    a, b = old.astype(np.float64).reshape(-1), new.astype(np.float64).reshape(-1)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return math.inf, 1.0
    gap = b[finite] - a[finite]
    return float(gap @ gap), float(a[finite] @ a[finite])
