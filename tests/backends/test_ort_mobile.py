"""``--target ort-mobile``: a file for minimal builds, run in a fresh process, and what such a build needs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import whet
from whet.backends import ort_convert, ort_mobile
from whet.backends.base import RuntimeOptions, find_target
from whet.errors import BudgetMissed, CannotRun, UnsupportedTarget


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 3, 3, 3)), "v": rng.standard_normal((8, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "v"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    return path


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {"recipe": "exact", "target": "ort-mobile", "page": False, "measure": False}
    return whet.compile(str(source), output=out, **{**given, **options})


def test_the_file_is_loaded_run_and_compared(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out")
    files = ["model.onnx", "model.ort", "required_operators.config"]
    assert list(made.manifest["files"]) == [*files, "required_operators_and_types.config"]
    assert made.manifest["target"] == "ort-mobile"
    assert made.report is not None
    assert made.report.agreements
    assert made.report.worst_error < 1e-6
    assert made.report.after.bytes == (tmp_path / "out" / "model.ort").stat().st_size
    assert any("--include_ops_by_config required_operators.config" in n for n in made.report.notes)
    x = np.random.default_rng(1).standard_normal((3, 3, 12, 12)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(source).run(None, {"x": x})
    (got,) = whet.load(tmp_path / "out").run({"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    (alone,) = onnxruntime.InferenceSession(tmp_path / "out" / "model.ort").run(None, {"x": x})
    np.testing.assert_array_equal(alone, got)


def test_it_is_the_ort_file_that_runs(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    (tmp_path / "out" / "model.ort").write_bytes(b"nothing")
    with pytest.raises(whet.errors.InvalidModel, match="digest differs"):
        whet.load(tmp_path / "out")
    with pytest.raises(whet.errors.UsageError, match="cannot be run here"):
        whet.load(tmp_path / "out", verify=False).run(np.zeros((1, 3, 12, 12), np.float32))


def test_required_operators_are_those_of_the_file(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    plain = (tmp_path / "out" / "required_operators.config").read_text()
    assert "#" not in plain
    found = {op for line in plain.splitlines() for op in line.split(";")[2].split(",")}
    assert {"GlobalAveragePool", "Flatten", "MatMul"} <= found
    assert "Relu" not in found  # a part of the fused convolution
    typed = (tmp_path / "out" / "required_operators_and_types.config").read_text()
    assert "float" in typed


def test_nothing_in_it_depends_on_the_vectors_of_this_machine(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    assert "nchwc" not in (tmp_path / "out" / "required_operators.config").read_text()


def test_the_same_input_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(source, tmp_path / name)
    for name in json.loads((tmp_path / "a" / "whet.json").read_text())["files"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_flash_is_the_ort_file(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed, match=r"bytes of model.ort, the budget 1,000; .* 864"):
        build(source, tmp_path / "out", budget=whet.Budget(flash="1KB"))


def test_what_does_not_fit_the_format_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_mobile, "_LARGEST", 500)
    with pytest.raises(UnsupportedTarget, match=r"weights take 992 bytes, .* holds less than 500"):
        build(source, tmp_path / "out")


def test_a_plain_model_is_converted_to_be_run(source: Path) -> None:
    runner = find_target("ort-mobile").open(source, RuntimeOptions())
    assert runner.run({"x": np.zeros((1, 3, 12, 12), np.float32)})[0].shape == (1, 4)


def test_what_onnxruntime_does_not_convert_is_refused(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CannotRun, match=r"[Pp]rotobuf"):
        ort_convert.convert(broken, tmp_path / "broken.ort", signed=False)
    ort_convert.convert(source, tmp_path / "a.ort", signed=True)
    ort_convert.convert(source, tmp_path / "b.ort", signed=True)
    assert (tmp_path / "a.ort").read_bytes() == (tmp_path / "b.ort").read_bytes()
