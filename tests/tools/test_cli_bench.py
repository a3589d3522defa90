import json
from pathlib import Path

import numpy as np
from commandline import Run


def test_bench_puts_models_side_by_side(whet: Run, model: Path, other: Path) -> None:
    result = whet("bench", model, other, "--rounds", "1", "--bind", "batch=4", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert "Inputs: batch=4" in result.stdout
    assert "net.onnx" in result.stdout
    assert "other.onnx" in result.stdout
    assert "1.000" in result.stdout


def test_bench_as_json(whet: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "feeds.npz", x=np.ones((5, 8), np.float32))
    arguments = ("bench", model, "--rounds", "2", "--feeds", tmp_path / "feeds.npz", "--json")
    (row,) = json.loads(whet(*arguments).stdout)["models"]
    assert row["inputs"] == "feeds.npz"
    assert row["time"]["runs"] == 2
    assert row["time"]["low"] <= row["time"]["median"] <= row["time"]["high"]
    assert row["bytes"] == model.stat().st_size
    assert row["peak_bytes"] > 1e6


def test_bench_refuses_a_folder_that_is_no_artifact(whet: Run, model: Path) -> None:
    result = whet("bench", model, model.parent)
    assert result.exit_code == 2
    assert "without whet.json" in result.stderr


def test_bench_refuses_models_with_other_inputs(whet: Run, model: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        "sum",
        [value("a", TensorProto.FLOAT, [2]), value("b", TensorProto.FLOAT, [2])],
        [value("c", TensorProto.FLOAT, [2])],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "sum.onnx")
    result = whet("bench", model, tmp_path / "sum.onnx", "--rounds", "1")
    assert result.exit_code == 2
    assert "they cannot be compared" in result.stderr
