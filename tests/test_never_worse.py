"""A result that is slower beyond doubt gives way to the source's own graph."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.backends.measure import Timing

FAST, SLOW = Timing(1.0, 0.9, 1.1, 7), Timing(2.0, 1.9, 2.1, 7)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Identity", ["x"], ["a"], "pass_through"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "product"),
        helper.make_node("Relu", ["b"], ["y"], "relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    path = tmp_path / "model.onnx"
    imports = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def measured(monkeypatch: pytest.MonkeyPatch, *answers: tuple[Timing, Timing]) -> list[int]:
    """Let the answers come one after the other; the last one stays."""
    calls: list[int] = []

    def fake(*_: object, **__: object) -> list[Timing]:
        calls.append(1)
        return list(answers[min(len(calls), len(answers)) - 1])

    monkeypatch.setattr("whet.realizing.compare_speed", fake)
    return calls


def test_a_slower_result_is_taken_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = measured(monkeypatch, (FAST, SLOW), (FAST, SLOW), (FAST, FAST))
    artifact = whet.compile(model, recipe="exact", output=tmp_path / "out")
    report = artifact.report
    assert report is not None
    assert len(calls) == 3
    assert [step.reverted for step in report.steps if step.coverage.changed]
    assert all("slower" in s.reverted for s in report.steps if s.coverage.changed)
    assert "Identity" in {n.op_type for n in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["after"]["ops"] == written["before"]["ops"] == 3
    x = np.ones((2, 8), np.float32)
    (found,) = whet.load(tmp_path / "out").run({"x": x})
    assert found.shape == (2, 4)


def test_one_slow_measurement_is_doubted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = measured(monkeypatch, (FAST, SLOW), (FAST, FAST))
    artifact = whet.compile(model, recipe="exact", output=tmp_path / "out")
    assert artifact.report is not None
    assert len(calls) == 2
    assert not any(step.reverted for step in artifact.report.steps)
    assert artifact.report.after.ops == 2


def test_how_it_runs_is_kept_in_the_artifact(model: Path, tmp_path: Path) -> None:
    entry = {"session.intra_op.allow_spinning": "0"}
    options = {"optimization": "basic", "session": entry, "threads": 1, "measure": False}
    whet.compile(model, recipe="exact", output=tmp_path / "out", **options)
    written = json.loads((tmp_path / "out" / "whet.json").read_text())
    assert written["runtime"] == {"threads": 1, "optimization": "basic", "config": entry}
    (found,) = whet.load(tmp_path / "out").run({"x": np.ones((1, 8), np.float32)})
    assert found.shape == (1, 4)
    with pytest.raises(whet.errors.UsageError, match="optimization level is 'fast'"):
        whet.compile(model, optimization="fast", output=tmp_path / "other")
