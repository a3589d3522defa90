"""How far two models are apart, and at which value they part."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from whet.backends.worker import Worker
from whet.comparison import relative_error
from whet.errors import InvalidModel, UsageError
from whet.ir.execute import CannotRun, Executor
from whet.ir.files import load_model
from whet.ir.saving import save_model
from whet.ir.values import Array
from whet.tools.inputs import Case, make_cases, rename_inputs
from whet.tools.subjects import Subject

__all__ = ["Difference", "Divergence", "Gap", "find_difference", "find_divergence"]

_TOGETHER = 32
"""Intermediate values that are fetched in one run, to bound memory."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far one output of the second model is from the first model's."""

    output: str
    inputs: str
    relative_error: float
    max_abs: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first value, in the first model's order, that is further apart than the tolerance."""

    value: str
    """Empty when every shared value agrees."""
    node: str
    op_type: str
    relative_error: float
    shared: int
    """How many values the models have in common, by name."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The outputs compared, and those that only one model has."""

    gaps: tuple[Gap, ...]
    unmatched: tuple[str, ...]
    cases: tuple[Case, ...]

    @property
    def worst_inputs(self) -> Mapping[str, Array]:
        """Return the inputs on which the models are furthest apart."""
        worst = max(self.gaps, key=lambda gap: gap.relative_error, default=None)
        found = [feeds for words, feeds in self.cases if worst is None or words == worst.inputs]
        return found[0]

    def within(self, tolerance: float) -> bool:
        """Tell whether every output agrees."""
        return not self.unmatched and all(g.relative_error <= tolerance for g in self.gaps)


def find_difference(
    first: Subject,
    second: Subject,
    *,
    feeds: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Difference:
    """Run both on the same inputs at every binding and compare every output."""
    progress("load both models")
    with first.open(threads=threads) as old, second.open(threads=threads) as new:
        cases = make_cases(first, old, feeds, sizes, seed)
        pairs, unmatched = _pair_outputs(old, new)
        gaps: list[Gap] = []
        for words, inputs in cases:
            progress(f"compare at {words}")
            before = _run(first, old, inputs)
            after = _run(second, new, rename_inputs(inputs, new.inputs, second.label))
            gaps += [_gap(name, words, before[i], after[j]) for name, i, j in pairs]
    return Difference(tuple(gaps), tuple(unmatched), tuple(cases))


def _run(subject: Subject, worker: Worker, feeds: Mapping[str, Array]) -> list[Array]:
    try:
        return worker.run(feeds)
    except CannotRun as error:
        raise InvalidModel(f"'{subject.label}' does not run on these inputs: {error}") from error


def _pair_outputs(old: Worker, new: Worker) -> tuple[list[tuple[str, int, int]], list[str]]:
    shared = [name for name in old.outputs if name in new.outputs]
    if not shared and len(old.outputs) == len(new.outputs):
        return [(name, k, k) for k, name in enumerate(old.outputs)], []
    if not shared:
        raise UsageError(
            f"the models have no output in common: {list(old.outputs)} and {list(new.outputs)}"
        )
    alone = [name for name in (*old.outputs, *new.outputs) if name not in shared]
    return [(name, old.outputs.index(name), new.outputs.index(name)) for name in shared], alone


def _gap(name: str, words: str, old: Array, new: Array) -> Gap:
    error, cosine = relative_error(old, new)
    return Gap(name, words, error, _max_abs(old, new), cosine)


def _max_abs(old: Array, new: Array) -> float:
    if old.shape != new.shape:
        return float("inf")
    if old.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(old, new) else float("inf")
    gap = np.abs(new.astype(np.float64) - old.astype(np.float64))
    finite = gap[np.isfinite(gap)]
    return float(finite.max()) if finite.size else 0.0


def find_divergence(
    first: Subject, second: Subject, inputs: Mapping[str, Array], tolerance: float
) -> Divergence:
    """Fetch every value that both models have by name, in the first one's order, with optimizations off."""
    names, makers = _shared_values(first.model, second.model)
    for chunk, old, new in _fetch(first, second, names, inputs):
        for name, before, after in zip(chunk, old, new, strict=True):
            error, _ = relative_error(before, after)
            if error > tolerance:
                node = makers[name]
                return Divergence(name, node.name or "", node.op_type, error, len(names))
    return Divergence("", "", "", 0.0, len(names))


def _shared_values(
    first: onnx_ir.Model, second: onnx_ir.Model
) -> tuple[list[str], dict[str, onnx_ir.Node]]:
    there = {v.name for node in second.graph for v in node.outputs if v.name}
    makers = {
        v.name: node
        for node in first.graph
        for v in node.outputs
        if v.name in there and v.name and not isinstance(v.type, onnx_ir.SequenceType)
    }
    return list(makers), makers


def _fetch(
    first: Subject, second: Subject, names: Sequence[str], inputs: Mapping[str, Array]
) -> Iterator[tuple[Sequence[str], list[Array], list[Array]]]:
    if not names:
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CannotRun):
        old = Executor(_expose(first.file, names, Path(folder) / "first.onnx"))
        new = Executor(_expose(second.file, names, Path(folder) / "second.onnx"))
        renamed = rename_inputs(inputs, new.inputs, second.label)
        for start in range(0, len(names), _TOGETHER):
            chunk = names[start : start + _TOGETHER]
            yield chunk, old.run(inputs, chunk), new.run(renamed, chunk)


def _expose(file: Path, names: Sequence[str], copy: Path) -> Path:
    """Write a copy of the model whose outputs are the named values."""
    model = load_model(file)
    values = {v.name: v for node in model.graph for v in node.outputs if v.name}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in names)
    save_model(model, copy)
    return copy
