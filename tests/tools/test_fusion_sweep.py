"""Fusion coverage: what is present, what is fused, and the reason for what is left."""

import json
import sys
from pathlib import Path
from typing import Any

import onnx_ir
import pytest

from whet.passes.base import Coverage, Failure
from whet.passes.pipeline import Step
from whet.tools.sweep.children import gather, quiet
from whet.tools.sweep.fused import KINDS, count_fused, explain
from whet.tools.sweep.fusion import Row, main

torch = pytest.importorskip("torch")
nn = torch.nn

from whet.tools.sweep.exporters import EXPORTERS  # noqa: E402
from whet.tools.sweep.presence import present  # noqa: E402
from whet.tools.sweep.zoo import Sample, architecture  # noqa: E402


class LlamaRMSNorm(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


class OddGELU(nn.Module):
    def forward(self, x: Any) -> Any:
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def rotate_half(x: Any) -> Any:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


class _Mixed(nn.Module):
    """One spelled-out attention, one fused, a norm of each kind, three activations, and decoys."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), LlamaRMSNorm()])
        self.acts = nn.ModuleList([OddGELU(), nn.SiLU(), nn.ReLU()])

    def forward(self, x: Any) -> Any:
        for layer in [*self.norms, *self.acts]:
            x = layer(x)
        x = nn.functional.gelu(x)
        scores = (rotate_half(x) @ x.mT / 3 + 1).masked_fill(x.new_zeros(5, 5).bool(), -1.0)
        x = nn.functional.dropout(scores.softmax(-1), 0.1, False) @ x
        gates = x.relu().softmax(-1)
        x = x * gates.sum(-1, keepdim=True) + (gates @ gates.mT).sum()
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_presence_counts_what_is_executed_and_no_decoy() -> None:
    sample = Sample(_Mixed().eval(), (torch.randn(2, 5, 8),), None)
    assert present(sample) == {"attention": 2, "norm": 2, "activation": 3, "rotary": 1}


def test_presence_of_the_zoo_is_the_same_however_attention_is_spelled() -> None:
    pytest.importorskip("transformers")
    expected = {"attention": 2, "norm": 5, "activation": 2, "rotary": 0}
    assert present(architecture("bert").build()) == expected
    assert present(architecture("bert-eager").build()) == expected


def _model(nodes: list[onnx_ir.Node], x: onnx_ir.Value) -> onnx_ir.Model:
    outputs = [nodes[-1].outputs[0]]
    graph = onnx_ir.Graph([x], outputs, nodes=nodes, opset_imports={"": 23, "com.microsoft": 1})
    return onnx_ir.Model(graph, ir_version=10)


def _node(kind: str, *inputs: onnx_ir.Value, name: str = "", domain: str = "") -> onnx_ir.Node:
    return onnx_ir.Node(domain, kind, inputs, name=name or kind)


def test_every_spelling_of_a_fused_operator_counts() -> None:
    x = onnx_ir.Value(name="x")
    skip = _node("SkipLayerNormalization", x, x, x, domain="com.microsoft")
    sigmoid = _node("Sigmoid", skip.outputs[0])
    silu = _node("Mul", skip.outputs[0], sigmoid.outputs[0])
    scaled = _node("Mul", x, silu.outputs[0])
    quick = _node("Mul", _node("Sigmoid", scaled.outputs[0]).outputs[0], x)
    gate = quick.inputs[0]
    assert gate is not None
    inner = gate.producer()
    assert inner is not None
    model = _model([skip, sigmoid, silu, scaled, inner, quick], x)
    assert count_fused(model) == {"attention": 0, "norm": 1, "activation": 2, "rotary": 0}


def _step(name: str, **coverage: Any) -> Step:
    return Step(name, "exact", "", Coverage(**coverage))


@pytest.fixture
def softmaxes(monkeypatch: pytest.MonkeyPatch) -> onnx_ir.Model:
    """Three softmaxes far from each other, and a pass that has to explain them."""

    class _LiftAttention:
        __module__ = "whet.passes.attention.lift_attention"

    known = {"lift-attention": _LiftAttention, "fold-scale": object}
    monkeypatch.setattr("whet.tools.sweep.fused.all_passes", lambda: known)
    x = onnx_ir.Value(name="x")
    nodes: list[onnx_ir.Node] = []
    for k in range(3):
        soft = _node("Softmax", x, name=f"soft{k}")
        nodes += [soft, _node("MatMul", soft.outputs[0], x, name=f"out{k}")]
    return _model(nodes, x)


def test_reasons_come_from_the_pass_of_the_kind_and_from_nearby(softmaxes: onnx_ir.Model) -> None:
    steps = [
        _step("lift-attention", declined={"out0": "two heads"}, near_misses={"soft1": "a Tanh"}),
        _step("fold-scale", declined={"soft2": "not a constant"}),
    ]
    lines, silent = explain(softmaxes, steps, {"attention": 3, "norm": 0})
    assert lines[:2] == [
        "attention: lift-attention at out0: two heads",
        "attention: lift-attention at soft1: a Tanh",
    ]
    assert lines[2] == "attention: Softmax 'soft2': no pass says why"
    assert silent == 1


def test_a_refused_proof_is_a_reason_and_what_is_gone_needs_none(softmaxes: onnx_ir.Model) -> None:
    failures = [Failure(f"out{k}", "differs", 1.0) for k in range(3)]
    lines, silent = explain(
        softmaxes, [_step("lift-attention", failures=failures)], {"attention": 4}
    )
    assert silent == 0
    assert lines[-1] == "attention: nothing of it is in the graph (constant, or unread)"
    assert lines[0] == "attention: lift-attention at out0: differs"


def test_a_row_knows_who_is_behind() -> None:
    none = dict.fromkeys(KINDS, 0)
    row = Row("net", "dynamo-23", {**none, "norm": 3}, {**none, "norm": 3}, {**none, "norm": 2})
    assert row.behind == ["norm"]
    assert row.left == {**none, "norm": 1}
    assert not row.good


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_each_exporter_writes_a_model(exporter: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with quiet():
        EXPORTERS[exporter](architecture("alibi-encoder").build(), path)
    opset = onnx_ir.load(path).opset_imports[""]
    assert opset == int(exporter.rpartition("-")[2])


def test_the_command_prints_the_table_and_writes_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    options = ["alibi-encoder", "--exporter", "dynamo-23", "--no-prove", "--json", str(file)]
    main(options)
    (row,) = json.loads(file.read_text())
    assert not row["failure"]
    assert row["present"] == {"attention": 2, "norm": 5, "activation": 2, "rotary": 0}
    assert row["ours"]["norm"] == 5
    printed = capsys.readouterr().out
    assert "alibi-encoder" in printed
    assert "present / ORT / whet: attention 2 /" in printed


def test_a_child_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mortal.py").write_text(
        "import os, sys\nfrom whet.tools.sweep.children import serve\n"
        "serve(sys.argv[2:], lambda n: os._exit(1) if n == 'b' else {'name': n})\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = dict(gather("mortal", ["a", "b", "c"]))
    assert found == {"a": {"name": "a"}, "b": None, "c": {"name": "c"}}
