"""Hold the finished artifact against the source: same inputs, two processes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.calibration import Dataset
from whet.backends.base import Runner
from whet.backends.worker import Worker
from whet.errors import BrokenPass, UsageError
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Fidelity
from whet.passes.pipeline import Step
from whet.report import Agreement
from whet.solve.allocation import Doubles

__all__ = [
    "NOISE_FACTOR",
    "agree",
    "check_agreement",
    "hits",
    "hold_against",
    "output_limit",
    "record",
    "relative_error",
    "unexplained",
]

EXACT_LIMIT = 1e-5
"""Largest relative output error of a compile without lossy passes."""
NOISE_FACTOR = 10.0
"""Beyond the limit, this many times what the runtime's own optimizations change in the source is accepted."""


def output_limit(model: onnx_ir.Model) -> float:
    """Return the accepted relative error: the limit, or one unit of the coarsest type that the model computes in.

    Runtimes keep chains of half-precision operators in float32 as long as they can, so taking a node away moves the
    last bit.
    """
    types = {v.dtype for node in model.graph.all_nodes() for v in node.outputs}
    if onnx_ir.DataType.BFLOAT16 in types:
        return 2.0**-7
    return 2.0**-10 if onnx_ir.DataType.FLOAT16 in types else EXACT_LIMIT


def relative_error(old: Array, new: Array) -> tuple[float, float]:
    """Return (||new - old|| / ||old||, cosine); the error is infinite where types, shapes or NaNs differ."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf"), 0.0
    if old.dtype.kind == "O":
        return _compare_items(old, new)
    if old.dtype.kind not in "fiubV":
        return (0.0, 1.0) if np.array_equal(old, new) else (float("inf"), 0.0)
    a, b = old.astype(np.float64).reshape(-1), new.astype(np.float64).reshape(-1)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf"), 0.0
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf"), 0.0
    a, b = a[finite], b[finite]
    gap, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(a))
    if gap == 0.0:
        return 0.0, 1.0
    if size == 0.0:
        return float("inf"), 0.0
    other = float(np.linalg.norm(b))
    cosine = float(a @ b) / (size * other) if other else 0.0
    return gap / size, min(1.0, cosine)


def _compare_items(old: Array, new: Array) -> tuple[float, float]:
    """Compare sequences item by item, and strings as they are."""
    if not any(isinstance(item, np.ndarray) for item in old.reshape(-1)):
        return (0.0, 1.0) if np.array_equal(old, new) else (float("inf"), 0.0)
    pairs = [relative_error(np.asarray(o), np.asarray(n)) for o, n in zip(old, new, strict=True)]
    return max(p[0] for p in pairs), min(p[1] for p in pairs)


def record(
    model: onnx_ir.Model, bindings: Bindings, runner: Runner, seed: int = 0
) -> list[list[Array]]:
    """Return the outputs at every binding, on the inputs that belong to ``seed``."""
    choices = range(len(bindings.choices))
    return [runner.run(bindings.feeds(model, choice, seed)) for choice in choices]


def agree(
    model: onnx_ir.Model, bindings: Bindings, before: Runner, after: Runner, seed: int = 0
) -> list[Agreement]:
    """Run both on the same inputs at every binding and compare every output."""
    old = record(model, bindings, before, seed)
    new = record(model, bindings, after, seed)
    return hold_against(old, new, bindings, before.outputs, output_limit(model))


def hold_against(
    old: Sequence[Sequence[Array]],
    new: Sequence[Sequence[Array]],
    bindings: Bindings,
    names: Sequence[str],
    limit: float,
) -> list[Agreement]:
    """Compare recorded outputs, ``names`` in order, binding by binding."""
    found: list[Agreement] = []
    for binding, before, after in zip(bindings.choices, old, new, strict=True):
        for name, o, n in zip(names, before, after, strict=True):
            error, cosine = relative_error(o, n)
            found.append(Agreement(name, dict(binding), error, cosine, limit))
    return found


def check_agreement(
    found: Sequence[Agreement],
    steps: Sequence[Step],
    model: onnx_ir.Model,
    bindings: Bindings,
    before: Worker,
    others: Mapping[str, Callable[[], Worker]],
) -> str:
    """Return a note, or raise BrokenPass, if outputs moved more than the applied passes account for.

    Rounding passes reorder sums, and deep networks amplify that. What is accepted beyond the limit is therefore held
    against how far the source is from itself: run again, and in ``others``, each of which is asked for only if those
    before it do not explain what was found.
    """
    lossy = any(
        s.fidelity == Fidelity.LOSSY.value and s.coverage.changed and not s.reverted for s in steps
    )
    if lossy or all(a.relative_error <= a.limit for a in found):
        return ""
    itself = agree(model, bindings, before, before)
    said = f"the source differs from itself by up to {_worst(itself):.1e}"
    noise = itself
    for what, opened in others.items():
        with opened() as other:
            seen = agree(model, bindings, before, other)
        said += f", {what} by up to {_worst(seen):.1e}"
        noise = [
            max(a, b, key=lambda x: x.relative_error) for a, b in zip(noise, seen, strict=True)
        ]
        if not unexplained(found, itself, noise):
            return f"relative error {_worst(found):.1e}: {said}"
    bad = unexplained(found, itself, noise)
    first = max(bad, key=lambda a: a.relative_error)
    raise BrokenPass(
        f"output '{first.output}' differs from the source by {first.relative_error:.2e} at {dict(first.binding)}, "
        f"allowed {first.limit:.0e}, although every rewrite was proven; nothing was written (find it: whet bisect)"
    )


def _worst(found: Sequence[Agreement]) -> float:
    return max(a.relative_error for a in found)


def unexplained(
    found: Sequence[Agreement], itself: Sequence[Agreement], noise: Sequence[Agreement]
) -> list[Agreement]:
    """Return those beyond their limit, output by output, that neither chance nor the runtime explains.

    ``itself`` compares the source with itself, ``noise`` with itself under other optimizations of the runtime.
    """
    return [
        a
        for a, s, n in zip(found, itself, noise, strict=True)
        if a.relative_error > a.limit
        and s.relative_error == 0.0
        and not a.relative_error <= NOISE_FACTOR * n.relative_error < float("inf")
    ]


def hits(runner: Runner, data: Dataset, batch: int) -> Doubles:
    """Return per sample whether the largest value along the first output's last axis is at the label, 1 or 0.

    Where a sample has several positions, the share of them.
    """
    if data.labels is None:
        raise UsageError("the labels file has no array 'labels'")
    found: list[Doubles] = []
    seen = 0
    for feeds in data.batches(batch):
        try:
            scores = runner.run(feeds)[0]
        except CannotRun as error:
            raise UsageError(f"the model does not run on the labels file: {error}") from error
        expected = data.labels[seen : seen + len(scores)]
        seen += len(scores)
        right = (scores.argmax(-1) == expected).astype(np.float64)
        found.append(right.reshape(len(right), -1).mean(1))
    return np.concatenate(found)
