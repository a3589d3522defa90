import json
from pathlib import Path

import numpy as np
import onnx
from commandline import Run, make_model


def test_a_model_is_the_same_as_itself(whet: Run, model: Path) -> None:
    result = whet("diff", model, model)
    assert result.exit_code == 0, result.output
    assert "batch=2" in result.stdout
    assert "batch=3" in result.stdout
    assert "the same within 1e-05" in result.stdout


def test_the_first_value_that_differs_is_named(whet: Run, model: Path, tmp_path: Path) -> None:
    proto = make_model()
    bias = onnx.numpy_helper.to_array(proto.graph.initializer[1]).copy()
    bias[3] += 0.25
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bias, "b"))
    onnx.save(proto, tmp_path / "moved.onnx")
    result = whet("diff", model, tmp_path / "moved.onnx")
    assert result.exit_code == 1, result.output
    assert "'biased' (Add 'bias')" in " ".join(result.stdout.split())


def test_diff_as_json(whet: Run, model: Path, other: Path) -> None:
    result = whet("diff", model, other, "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 1
    assert data["within"] is False
    assert [gap["output"] for gap in data["outputs"]] == ["y", "y"]
    assert abs(data["outputs"][0]["relative_error"] - 0.5) < 1e-6
    assert data["first_divergence"]["value"] == "y"
    assert data["first_divergence"]["shared"] == 7


def test_a_wider_tolerance_accepts(whet: Run, model: Path, other: Path) -> None:
    assert whet("diff", model, other, "--tolerance", "0.6").exit_code == 0


def test_given_inputs_are_used(whet: Run, model: Path, other: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "zeros.npz", x=np.zeros((1, 8), np.float32))
    result = whet("diff", model, other, "--feeds", tmp_path / "zeros.npz")
    assert "zeros.npz" in result.stdout
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 9), np.float32))
    result = whet("diff", model, other, "--feeds", tmp_path / "wrong.npz")
    assert result.exit_code == 2
    assert "shape (1, 9)" in result.stderr


def test_an_artifact_is_compared_with_its_source(whet: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whet("compile", model, "-o", out, "--recipe", "exact", "--no-measure")
    result = whet("diff", model, out)
    assert result.exit_code == 0, result.output
