"""``--target openvino``: the same file in another runtime; bfloat16 is lossy and judged as such."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.backends import openvino
from whet.backends.base import RuntimeOptions, find_target
from whet.backends.device import host
from whet.backends.measure import Timing
from whet.errors import UnsupportedTarget, UsageError

installed = pytest.mark.skipif(
    bool(find_target("openvino").missing()), reason="openvino is not installed"
)
amx = pytest.mark.skipif("amx_bf16" not in host().isa, reason="this processor has no AMX")


def network(
    path: Path, kind: str = "Relu", domain: str = "", dtype: int = TensorProto.FLOAT
) -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node(kind, ["h"], ["a"], "middle", domain=domain),
        helper.make_node("MatMul", ["a", "v"], ["y"], "last"),
    ]
    weights = {"w": rng.standard_normal((32, 96)), "v": rng.standard_normal((96, 8))}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, ["batch", 32])],
        [helper.make_tensor_value_info("y", dtype, ["batch", 8])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {"recipe": "exact", "target": "openvino", "page": False, "measure": False}
    return whet.compile(str(source), output=out, **{**given, **options})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return network(tmp_path / "net.onnx", "Gelu")


@installed
def test_the_result_runs_in_openvino(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out")
    assert made.manifest["target"] == "openvino"
    assert "openvino" in made.manifest["versions"]
    assert made.report is not None
    assert made.report.worst_error < 1e-5
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    (got,) = whet.load(tmp_path / "out").run(x=x)
    (want,) = find_target("onnxruntime").open(source, RuntimeOptions()).run({"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@installed
def test_integers_are_read_from_the_same_file(source: Path, tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(2).standard_normal((40, 32)).astype(np.float32)}
    recipe = "quantize-static{prefer=size}"
    made = build(source, tmp_path / "out", recipe=recipe, calibration=data)
    kinds = {n.op_type for n in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert "DequantizeLinear" in kinds
    assert made.report is not None
    assert 0 < made.report.worst_error < 0.1


@installed
def test_a_file_that_openvino_does_not_read_is_refused_by_operator(tmp_path: Path) -> None:
    path = network(tmp_path / "odd.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "Strange"
    onnx.save(model, path)
    assert "No conversion rule found for operations: Strange" in openvino._unreadable(path)


@installed
def test_an_operator_without_a_rule_is_spelled_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = openvino._unreadable

    def without_gelu(path: Path) -> str:
        if "Gelu" in {n.op_type for n in onnx.load(path).graph.node}:
            return "No conversion rule found for operations: Gelu-20"
        return plain(path)

    monkeypatch.setattr(openvino, "_unreadable", without_gelu)
    made = build(source, tmp_path / "out")
    assert onnx.load(tmp_path / "out" / "model.onnx").opset_import[0].version == 17
    assert made.report is not None
    assert made.report.worst_error < 1e-5
    monkeypatch.setattr(openvino, "_unreadable", lambda path: "No conversion rule: anything")
    with pytest.raises(UnsupportedTarget, match="OpenVINO does not read it: No conversion rule"):
        build(source, tmp_path / "other")


@installed
def test_domains_of_others_are_refused_at_once(tmp_path: Path) -> None:
    path = network(tmp_path / "odd.onnx", "Odd", "my.own")
    import onnx_ir

    reasons = find_target("openvino").refuses(onnx_ir.load(path))
    assert reasons == ["my.own.Odd: no such operator in OpenVINO"]


def test_without_the_package_it_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedTarget, match=r"pip install 'whet\[openvino\]'"):
        build(source, tmp_path / "out")


def test_options_are_checked(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision is 'f8', expected f32 or bf16"):
        find_target("openvino{precision=f8}")
    with pytest.raises(UsageError, match="no option 'speed'; known: precision"):
        find_target("openvino{speed=1}")
    assert find_target("openvino{precision=bf16}").spelled == "openvino{precision=bf16}"
    assert find_target("openvino{precision=f32}").spelled == "openvino"
    with pytest.raises(UnsupportedTarget, match="needs amx_bf16, 'x86-64-v3' has x86_64 avx2"):
        build(source, tmp_path / "o", target="openvino{precision=bf16}", device="x86-64-v3")


@installed
@amx
def test_bfloat16_is_lossy_and_judged(source: Path, tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(2).standard_normal((40, 32)).astype(np.float32)}
    made = build(source, tmp_path / "out", target="openvino{precision=bf16}", calibration=data)
    assert made.report is not None
    step = next(s for s in made.report.steps if s.name == "run as openvino{precision=bf16}")
    assert step.fidelity == "lossy"
    assert step.outputs[0].samples == 4
    assert 1e-4 < step.outputs[0].error < 0.05
    assert made.manifest["target"] == "openvino{precision=bf16}"
    bare = build(source, tmp_path / "bare", target="openvino{precision=bf16}")
    assert bare.report is not None
    assert any("judged on random inputs" in note for note in bare.report.notes)
    json.dumps(bare.report.to_json())


@installed
@amx
def test_bfloat16_that_is_not_faster_is_taken_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [Timing(1.0, 0.9, 1.1, 7), Timing(0.99, 0.9, 1.1, 7)]
    monkeypatch.setattr("whet.precision.compare_speed", lambda *_: times)
    made = build(source, tmp_path / "out", target="openvino{precision=bf16}", measure=True)
    assert made.report is not None
    step = next(s for s in made.report.steps if s.name.startswith("run as"))
    assert step.reverted.startswith("not faster, measured twice: 1 ms")
    assert made.manifest["target"] == "openvino"
    assert made.report.worst_error < 1e-5
