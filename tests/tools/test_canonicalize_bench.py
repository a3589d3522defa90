import re

import onnx
import pytest

from whet.tools.bench.canonicalize import contenders, main, measure
from whet.tools.bench.exported_graph import exported_graph


def test_the_graph_has_about_the_wanted_size_and_random_weights() -> None:
    model = exported_graph(400)
    assert 380 <= len(model.graph.node) <= 540
    weights = [onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer]
    assert all(weight.std() > 0 for weight in weights)


def test_whet_keeps_the_outputs_and_removes_nodes() -> None:
    model = exported_graph(150)
    rows = measure(model, contenders()[1:], rounds=1)
    assert [row.name for row in rows] == ["whet, proof off", "whet, proof on"]
    assert rows[0].nodes == rows[1].nodes < len(model.graph.node) / 2
    assert all(re.fullmatch(r"bit-identical|differ by .*e-0[6-9]", row.error) for row in rows)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxslim")
    main(["--nodes", "60", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "OnnxSlim" in printed
    assert "whet, proof on" in printed
