"""Every pass over every sample model: what it declares is held against what is observed."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from whet.backends.probe import find_bindings
from whet.comparison import relative_error
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.prepare import normalize
from whet.ir.text import parse_model, print_model
from whet.ir.verify import verify
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.registry import all_passes
from whet.passes.workbench import Context, Workbench

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.txt"))
PASSES = [cls() for cls in all_passes().values()]


@cache
def text_of(path: Path) -> str:
    return print_model(normalize(parse_model(path.read_text())), elide=1 << 30)


def fresh(path: Path) -> onnx_ir.Model:
    return normalize(parse_model(text_of(path)))


@cache
def bindings_of(path: Path) -> Bindings:
    model = fresh(path)
    try:
        return find_bindings(model, executor(model))
    except CannotRun:
        return Bindings(())


def executor(model: onnx_ir.Model) -> Executor:
    return Executor(onnx_ir.serde.serialize_model(model))


def context_of(path: Path) -> Context:
    bindings = bindings_of(path)
    model = fresh(path)
    batches = tuple(bindings.feeds(model, 0, seed) for seed in range(3)) if bindings.choices else ()
    return Context(bindings=bindings if bindings.choices else Bindings(), calibration=batches)


def observed(before: onnx_ir.Model, after: onnx_ir.Model) -> Change:
    """Return what differs between two models, as a pass would have to declare it."""
    change = Change.NONE
    if structure(before) != structure(after):
        change |= Change.OPS
    if weights(before) != weights(after):
        change |= Change.WEIGHTS
    old, new = types(before), types(after)
    if any(old[name] != new[name] for name in old.keys() & new.keys()):
        change |= Change.TYPES
    return change


def structure(model: onnx_ir.Model) -> list[tuple[object, ...]]:
    return [
        (
            n.domain,
            n.op_type,
            tuple(v and v.name for v in n.inputs),
            tuple(v.name for v in n.outputs),
        )
        for n in model.graph.all_nodes()
    ]


def weights(model: onnx_ir.Model) -> dict[str, str]:
    return {
        name: hashlib.sha256(v.const_value.tobytes()).hexdigest()
        for name, v in model.graph.initializers.items()
        if v.const_value is not None and v.const_value.dtype != onnx_ir.DataType.STRING
    }


def types(model: onnx_ir.Model) -> dict[str, object]:
    return {
        v.name: v.dtype for n in model.graph for v in n.outputs if v.name and v.dtype is not None
    }


def run(step: Pass, model: onnx_ir.Model, path: Path) -> Workbench:
    work = Workbench(model, step, context_of(path))
    step.apply(work)
    return work


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("step", PASSES, ids=lambda p: p.name)
def test_pass_keeps_its_promises(step: Pass, path: Path) -> None:
    before, model = fresh(path), fresh(path)
    work = run(step, model, path)
    verify(model)
    assert not work.coverage.failures, "a proof refused a rewrite of a pass that ships"
    seen = observed(before, model)
    if not work.coverage.changed:
        assert seen is Change.NONE
    assert seen & ~(step.changes | new_weights(step)) == Change.NONE
    text = print_model(model, elide=1 << 30)
    assert print_model(parse_model(text), elide=1 << 30) == text
    compare_outputs(step, path, before, model)
    assert run(step, model, path).coverage.changed == 0, "a second run changes something"
    again = fresh(path)
    run(step, again, path)
    assert print_model(again, elide=1 << 30) == text, "two runs differ"


def new_weights(step: Pass) -> Change:
    """A pass that may replace operators may also bring or drop the constants they read."""
    return Change.WEIGHTS if step.changes & Change.OPS else Change.NONE


def compare_outputs(step: Pass, path: Path, before: onnx_ir.Model, after: onnx_ir.Model) -> None:
    bindings = bindings_of(path)
    if not bindings.choices:
        return
    old, new = executor(before), executor(after)
    limit = {Fidelity.EXACT: 0.0, Fidelity.ROUNDING: 1e-5}.get(step.fidelity, 0.5)
    for choice in range(len(bindings.choices)):
        feeds = bindings.feeds(before, choice)
        for o, n in zip(old.run(feeds), new.run(feeds), strict=True):
            assert o.dtype == n.dtype
            assert np.isfinite(n).all()
            assert relative_error(o, n)[0] <= limit


def test_every_sample_is_exercised() -> None:
    """Guard against a corpus in which nothing ever matches."""
    changed = {path.stem for path in MODELS for step in PASSES if matches(step, path)}
    assert len(changed) >= len(MODELS) // 3


@cache
def matches(step: Pass, path: Path) -> bool:
    if step.fidelity is Fidelity.LOSSY:
        return False
    return run(step, fresh(path), path).coverage.changed > 0
