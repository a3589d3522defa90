"""Canonicalize every model of a corpus and hold its outputs against the original's.

``python -m whet.tools.sweep.corpus FOLDER…`` takes every ``.onnx`` below the folders; ``--onnx`` takes ONNX's own
backend tests (node, light, simple, pytorch). Each model ends in one of the states of :class:`State`; ``wrong`` and
``crashed`` are failures, and the command then exits with 1. Models run in a child process, which is replaced when a
deliberately broken model takes it down.
"""

import argparse
import contextlib
import dataclasses
import enum
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

from whet.backends.base import Runner, RuntimeOptions, find_target
from whet.backends.probe import find_bindings
from whet.comparison import agree, unexplained
from whet.errors import WhetError
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.files import load_model
from whet.ir.opset import raise_opset
from whet.ir.prepare import normalize
from whet.ir.values import Array, static_shape
from whet.ir.verify import verify
from whet.passes.base import Pass
from whet.passes.pipeline import Fixpoint, Pipeline
from whet.passes.purity import is_random
from whet.passes.recipes import exact
from whet.passes.workbench import Context
from whet.report import Agreement

__all__ = ["Outcome", "State", "check_model", "onnx_test_models", "run_corpus"]

LARGEST_INPUT = 1 << 26
"""Models whose fixed inputs hold more elements are canonicalized but not run."""
TIME_LIMIT = 120
"""Seconds for one model."""


class State(enum.Enum):
    """Say how one model ended."""

    SAME = "same outputs"
    REFUSED = "refused"
    """whet says, with a reason, that it does not take the model."""
    UNEXECUTABLE = "canonicalized, not executable"
    """ONNX Runtime does not run the original, so there is nothing to compare with."""
    RANDOM = "canonicalized, random by design"
    LARGE = "canonicalized, too large to run here"
    WRONG = "wrong"
    CRASHED = "crashed"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened to one model."""

    name: str
    state: State
    detail: str = ""
    nodes_before: int = 0
    nodes_after: int = 0
    error: float = 0.0


def check_model(path: Path) -> Outcome:
    """Load, canonicalize with proof, compare; the inputs beside the file (``test_data_set_0``) are used if present."""
    try:
        model = load_model(path)
        before = len(model.graph)
        model = normalize(raise_opset(model))
        verify(model)
    except WhetError as error:
        return Outcome(str(path), State.REFUSED, f"{type(error).__name__}: {error}")
    unrunnable = _unrunnable(model)
    if unrunnable is not None:
        model, _ = Pipeline((exact(),)).run(model, Context())
        return Outcome(str(path), unrunnable, "", before, len(model.graph))
    examples = _inputs_beside(path, model)
    reasons: list[str] = []
    for name in ("onnxruntime", "reference"):
        runner, bindings = _original(path, name, model, examples)
        if runner is not None:
            # The canonical form may hold what a runtime's kernel refuses: the target spells it so that it runs.
            stages: tuple[Pass | Fixpoint, ...] = (exact(), *find_target(name).legalize())
            model, _ = Pipeline(stages).run(model, Context(bindings=bindings))
            return _compare(path, name, runner, model, bindings, before)
        reasons.append(f"{name}: {bindings.note}")
    model, _ = Pipeline((exact(),)).run(model, Context())
    return Outcome(str(path), State.UNEXECUTABLE, "; ".join(reasons), before, len(model.graph))


def _unrunnable(model: onnx_ir.Model) -> State | None:
    if any(is_random(node) for node in model.graph.all_nodes()):
        return State.RANDOM
    shapes = [static_shape(value) for value in model.graph.inputs]
    large = sum(math.prod(shape) for shape in shapes if shape is not None) > LARGEST_INPUT
    return State.LARGE if large else None


def _original(
    path: Path, target: str, model: onnx_ir.Model, examples: Mapping[str, Array]
) -> tuple[Runner | None, Bindings]:
    try:
        runner = find_target(target).open(path, RuntimeOptions(1, "none"))
        bindings = find_bindings(model, runner, examples)
    except CannotRun as error:
        return None, Bindings((), {}, str(error))
    return (runner if bindings.choices else None), bindings


def _compare(
    path: Path,
    target: str,
    original: Runner,
    model: onnx_ir.Model,
    bindings: Bindings,
    before: int,
) -> Outcome:
    after = len(model.graph)
    try:
        with tempfile.TemporaryDirectory() as folder:
            find_target(target).lower(model, Path(folder))
            compiled = find_target(target).open(
                Path(folder) / "model.onnx", RuntimeOptions(1, "none")
            )
    except CannotRun as error:
        return Outcome(str(path), State.WRONG, f"the result does not load: {error}", before, after)
    try:
        found = agree(model, bindings, original, compiled)
        itself = agree(model, bindings, original, original)
    except CannotRun as error:
        return Outcome(str(path), State.WRONG, f"the result does not run: {error}", before, after)
    worst = max((a.relative_error for a in found), default=0.0)
    bad = [a for a in found if a.relative_error > a.limit]
    if bad:
        bad = unexplained(found, itself, _noise(path, model, bindings, original) or itself)
    if bad:
        detail = (
            f"'{bad[0].output}' differs by {bad[0].relative_error:.2e} at {dict(bad[0].binding)}"
        )
        return Outcome(str(path), State.WRONG, detail, before, after, worst)
    return Outcome(str(path), State.SAME, "", before, after, worst)


def _noise(
    path: Path, model: onnx_ir.Model, bindings: Bindings, original: Runner
) -> list[Agreement]:
    """Compare the original with itself under all of the runtime's optimizations; empty if it does not run so."""
    try:
        other = find_target("onnxruntime").open(path, RuntimeOptions(1, "all"))
        return agree(model, bindings, original, other)
    except CannotRun:
        return []


def _inputs_beside(path: Path, model: onnx_ir.Model) -> dict[str, Array]:
    folder = path.parent / "test_data_set_0"
    found: dict[str, Array] = {}
    names = [v.name or "" for v in model.graph.inputs if v.const_value is None]
    for number, name in enumerate(names):
        file = folder / f"input_{number}.pb"
        if not file.is_file():
            continue
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
            found[name] = numpy_helper.to_array(tensor)
        except Exception:  # a sequence or an optional, which is fed as drawn data or not at all
            continue
    return found


def onnx_test_models(folder: Path) -> list[Path]:
    """Return the files of ONNX's backend tests; those that exist as Python only are written to ``folder``."""
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return sorted(root.rglob("*.onnx")) + [_write_case(case, folder) for case in _node_cases()]


def _node_cases() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for case in load_model_tests(kind="node") if case.model is not None]


def _write_case(case: Any, folder: Path) -> Path:
    data = folder / case.name / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    path: Path = folder / case.name / "model.onnx"
    path.write_bytes(case.model.SerializeToString())
    for number, value in enumerate(case.data_sets[0][0]):
        if isinstance(value, np.ndarray):
            tensor = numpy_helper.from_array(value)
            (data / f"input_{number}.pb").write_bytes(tensor.SerializeToString())
    return path


def run_corpus(paths: Sequence[Path]) -> Iterator[Outcome]:
    """Check every model, in order, in a child process that is replaced when it dies."""
    waiting = list(paths)
    while waiting:
        done = 0
        for outcome in _child(waiting):
            done += 1
            yield outcome
        if done < len(waiting):
            detail = f"the process died, or took longer than {TIME_LIMIT} seconds"
            yield Outcome(str(waiting[done]), State.CRASHED, detail)
            done += 1
        waiting = waiting[done:]


def _child(paths: Sequence[Path]) -> Iterator[Outcome]:
    child = subprocess.Popen(
        [sys.executable, "-m", "whet.tools.sweep.corpus", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for path in paths:
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], TIME_LIMIT)
            line = child.stdout.readline() if ready else ""
            if not line:
                return
            data: dict[str, Any] = json.loads(line)
            data["state"] = State(data["state"])
            yield Outcome(**data)
    except BrokenPipeError:
        return
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _serve() -> None:
    for line in sys.stdin:
        try:
            outcome = check_model(Path(line.strip()))
        except Exception as error:
            detail = f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}"
            outcome = Outcome(line.strip(), State.CRASHED, detail)
        print(json.dumps({**dataclasses.asdict(outcome), "state": outcome.state.value}), flush=True)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--onnx", action="store_true", help="ONNX's own backend tests")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--show", default="wrong,crashed", help="states to list (default: %(default)s)"
    )
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.serve:
        _serve()
        return 0
    paths = [p for folder in options.folders for p in sorted(folder.rglob("*.onnx"))]
    with tempfile.TemporaryDirectory() as scratch:
        paths += onnx_test_models(Path(scratch)) if options.onnx else []
        if not paths:
            parser.error("no models: give folders or --onnx")
        console = Console(stderr=True)
        outcomes = list(track(run_corpus(paths), "checking", total=len(paths), console=console))
    _show(outcomes, options.show)
    return int(any(o.state in {State.WRONG, State.CRASHED} for o in outcomes))


def _show(outcomes: Sequence[Outcome], states: str) -> None:
    console = Console(width=110)
    wanted = [
        s
        for s in State
        if any(w.strip() and s.name.lower() == w.strip() for w in states.split(","))
    ]
    for outcome in outcomes:
        if outcome.state in wanted:
            console.print(
                f"[bold]{outcome.state.name.lower()}[/] {outcome.name}\n    {outcome.detail}",
                highlight=False,
            )
    table = Table(title=f"{len(outcomes)} models", title_justify="left")
    table.add_column("state")
    for name in ("models", "nodes before", "nodes after", "largest error"):
        table.add_column(name, justify="right")
    counts = Counter(o.state for o in outcomes)
    for state in State:
        part = [o for o in outcomes if o.state is state]
        table.add_row(
            state.value,
            f"{counts[state]}",
            f"{sum(o.nodes_before for o in part)}",
            f"{sum(o.nodes_after for o in part)}",
            f"{max((o.error for o in part), default=0.0):.1e}",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
