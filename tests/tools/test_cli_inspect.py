import json
from pathlib import Path

import onnx
from commandline import Run, make_model


def test_inspect_shows_ports_operators_weights_and_sites(whet: Run, model: Path) -> None:
    result = whet("inspect", model)
    assert result.exit_code == 0, result.stderr
    assert "[batch, 8]" in result.stdout
    assert "7 nodes: MatMul 2, Transpose 2, Add 1" in result.stdout
    assert "weights: float 208 (832 bytes)" in result.stdout
    assert "Sites where compression can act: 2" in result.stdout
    assert "eliminate-identity" in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:])) <= 100


def test_inspect_as_json(whet: Run, model: Path) -> None:
    data = json.loads(whet("inspect", model, "--json").stdout)
    assert [site["weights"] for site in data["sites"]] == [["w1"], ["w2"]]
    assert data["inputs"] == [
        {"name": "x", "type": "float", "shape": ["batch", 8], "optional": False}
    ]
    assert data["refusals"] == {name: [] for name in data["refusals"]}


def test_inspect_names_custom_operators_and_who_refuses_them(whet: Run, tmp_path: Path) -> None:
    proto = make_model()
    proto.graph.node[5].op_type = "Sharpen"
    proto.graph.node[5].domain = "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    (tmp_path / "custom.onnx").write_bytes(proto.SerializeToString())
    result = whet("inspect", tmp_path / "custom.onnx")
    assert result.exit_code == 0, result.stderr
    assert "custom operator com.example.Sharpen x1" in result.stdout
    assert "target onnxruntime: com.example.Sharpen (1 node): no such operator" in result.stdout


def test_inspect_as_text(whet: Run, model: Path) -> None:
    from whet.ir.text import parse_model

    result = whet("inspect", model, "--text")
    assert result.exit_code == 0
    assert 'MatMul(x, w1) @"first"' in result.stdout
    assert len(parse_model(result.stdout).graph) == 7


def test_long_lists_are_cut_and_counted(whet: Run, model: Path) -> None:
    result = whet("inspect", model, "--nodes", "1")
    assert "1 more (--nodes 2)" in result.stdout
    text = whet("inspect", model, "--text", "--nodes", "3").stdout
    assert "4 more nodes" in text
    assert "Relu" not in text


def test_an_artifact_is_inspected_too(whet: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert whet("compile", model, "-o", out, "--recipe", "exact", "--no-measure").exit_code == 0
    result = whet("inspect", out)
    assert result.exit_code == 0, result.stderr
    assert "Identity" not in result.stdout
