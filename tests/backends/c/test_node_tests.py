"""The C target against ONNX's own backend node tests of every operator that it claims."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from c_artifacts import declared, library, lower, needs_gcc, run
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from whet.backends.c import artifact
from whet.backends.c.registry import registered
from whet.backends.c.toolchain import CompilerMissing
from whet.errors import UnsupportedTarget

pytestmark = needs_gcc

# Operators whose node tests take what is computed while the model runs, where the C needs constants.
UNTESTED: set[str] = set()


@dataclass
class Outcome:
    passed: dict[str, set[str]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)


@dataclass
class Ready:
    name: str
    folder: Path
    feeds: dict[str, np.ndarray]
    expected: list[np.ndarray]
    tolerance: tuple[float, float]
    operators: set[str]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("nodes")
    found = Outcome()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(artifact, "find_toolchain", _no_compiler)  # code sizes are not asked for
        warnings.simplefilter("ignore")  # numpy's, while onnx generates the cases
        cases = [c for c in load_model_tests(kind="node") if _claimed(c.model)]
        ready = [r for k, c in enumerate(cases) if (r := _prepare(c, k, folder, found)) is not None]
    loaded = library([r.folder for r in ready], folder / "all.so")
    for item in ready:
        try:
            for got, want in zip(run(loaded, item.folder, item.feeds), item.expected, strict=False):
                rtol, atol = item.tolerance
                assert got.dtype == want.dtype
                np.testing.assert_allclose(got, want, rtol=rtol, atol=max(atol, 1e-6))
        except AssertionError as error:
            found.wrong[item.name] = str(error)[:300]
        else:
            found.passed[item.name] = item.operators
    return found


def _no_compiler(_device: object) -> Any:
    raise CompilerMissing("not asked for")


def _claimed(model: onnx.ModelProto) -> bool:
    return all(n.op_type in registered() and n.domain in {"", "ai.onnx"} for n in model.graph.node)


def _prepare(case: Any, number: int, folder: Path, found: Outcome) -> Ready | None:
    inputs, expected = case.data_sets[0]
    names = [v.name for v in case.model.graph.input]
    if any(
        not isinstance(a, np.ndarray | np.generic | onnx.TensorProto) for a in (*inputs, *expected)
    ):
        found.declined[case.name] = "sequences"
        return None
    feeds = {n: _array(a) for n, a in zip(names, inputs, strict=False)}
    place = folder / f"t{number}"
    reason = ""
    for kept, outputs in ((len(names), None), (1, None), (len(names), 1)):
        model = declared(case.model, feeds, kept)
        del model.graph.output[outputs or len(model.graph.output) :]
        for imported in model.opset_import:  # ONNX Runtime, which tells the shapes, lags behind
            imported.version = min(imported.version, 26)
        try:
            lower(model, place, feeds, name=f"t{number}")
        except UnsupportedTarget as error:
            reason = str(error)
            continue
        operators = {n.op_type for n in case.model.graph.node}
        return Ready(
            case.name,
            place,
            feeds,
            [_array(a) for a in expected],
            (case.rtol, case.atol),
            operators,
        )
    found.declined[case.name] = reason
    return None


def _array(value: Any) -> np.ndarray:
    return (
        numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    )


def test_nothing_is_wrong(outcome: Outcome) -> None:
    assert outcome.wrong == {}


def test_every_operator_is_tested(outcome: Outcome) -> None:
    tested = {kind for kinds in outcome.passed.values() for kind in kinds}
    assert set(registered()) - tested == UNTESTED
    assert len(outcome.passed) >= 650


def test_what_is_declined_says_why(outcome: Outcome) -> None:
    assert all("target 'c'" in r or r == "sequences" for r in outcome.declined.values())
