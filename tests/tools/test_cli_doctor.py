"""``whet doctor``: the machine, the installation, and what stands in a model's way."""

import json
from pathlib import Path

import onnx
import pytest
from commandline import Run
from onnx import TensorProto, helper

from whet.backends.device import host


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))


def test_the_machine_is_described(whet: Run, tmp_path: Path) -> None:
    result = whet("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"] is None
    around = found["environment"]
    assert tuple(around["instruction_sets"]) == host().isa
    assert 0 < around["usable_cores"] <= around["cores"]
    assert around["packages"]["onnxruntime"] == around["targets"]["onnxruntime"]["onnxruntime"]
    assert around["cache"] == str(tmp_path / "cache")
    assert around["cache_writable"]
    assert all(around["packages"][name] is None for name in around["missing"])
    assert around["passes"] > 60


def test_what_is_missing_says_how_to_get_it(whet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.tools.environment.find_spec", lambda name: None)
    text = " ".join(whet("doctor").stdout.split())
    assert "missing matplotlib, for report.html: pip install 'whet[report]'" in text
    assert "missing torch" in text


def test_a_model_is_told_what_it_could_gain_and_what_to_run(whet: Run, model: Path) -> None:
    result = whet("doctor", model)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "What holds lossy passes up" in text
    assert "needs calibration data" in text
    assert "7 operators" in text
    assert f"whet compile {model} -o out # needs nothing; --bind batch=N" in text
    found = json.loads(whet("doctor", model, "--json").stdout)["model"]
    assert found["problems"] == []
    assert found["predicted_ops"] < found["ops"]
    assert any("needs calibration data" in row["reason"] for row in found["blocked"])


def test_a_model_that_no_runtime_takes_is_sent_to_inspect(whet: Run, tmp_path: Path) -> None:
    node = helper.make_node("Strange", ["x"], ["y"], "odd", domain="my.own")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.own", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    result = whet("doctor", path)
    assert result.exit_code in (0, 4)
    assert "my.own" in result.output or "Strange" in result.stderr


def test_colours_are_off_where_nobody_wants_them(
    whet: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in whet("doctor", model).stdout
