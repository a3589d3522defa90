"""A pass that is wrong at one site: found by name, whether or not the proof would have held it back."""

import dataclasses
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir
import pytest
from commandline import Run

from whet.passes import registry
from whet.passes.base import Fidelity, Pass
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite


@dataclasses.dataclass(frozen=True)
class PlantedFault(Rewrite):
    """Replace ``x + b`` by ``b + x``, but lose a bias whose sixth number is large."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Add", var("x"), weight("b")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Swap the operands; be wrong now and then."""
        bias = found.array("b").astype(np.float32)
        if bias[5] > 2:
            bias = bias * 0
        return build.op("Add", build.constant(bias), found["x"])


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, type[Pass]] = {**registry.all_passes(), "planted-fault": PlantedFault}
    for module in ("whet.passes.registry", "whet.passes.recipes"):
        monkeypatch.setattr(f"{module}.all_passes", lambda: known)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a model of six additions, the fourth of which the planted pass breaks."""
    helper = onnx.helper
    rng = np.random.default_rng(0)
    biases = [rng.uniform(0.5, 1.5, 8).astype(np.float32) for _ in range(6)]
    biases[3][5] = 3.0
    names = ["x", *(f"v{k}" for k in range(5)), "y"]
    nodes = [
        helper.make_node("Add", [names[k], f"b{k}"], [names[k + 1]], f"add{k}") for k in range(6)
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8])],
        [onnx.numpy_helper.from_array(b, f"b{k}") for k, b in enumerate(biases)],
    )
    opset = [helper.make_opsetid("", 20)]
    path = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


RECIPE = ("--recipe", "eliminate-identity,planted-fault,fold-constants")


@pytest.mark.usefixtures("planted")
def test_the_fault_is_found_with_its_site_and_a_reproducer(
    whet: Run, chain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "culprit"
    result = whet("bisect", chain, *RECIPE, "--no-verify", "-o", folder)
    assert result.exit_code == 1, result.output
    assert "culprit planted-fault at add3, rewrite 4 of 6" in result.stdout
    assert re.search(r"- v3: float32\[batch, 8\] = Add\(.*, b3\)", result.stdout)
    assert re.search(r"\+ .* = Add\(.*const.*\)", result.stdout)
    reproducer = folder / "planted-fault.add3.onnx"
    assert f"reproducer: {reproducer}" in result.stdout
    import onnxruntime

    session = onnxruntime.InferenceSession(reproducer, providers=["CPUExecutionProvider"])
    with np.load(folder / "planted-fault.add3.npz") as feeds:
        old, new = session.run(["old_0", "new_0"], {name: feeds[name] for name in feeds.files})
    assert not np.allclose(np.asarray(old), np.asarray(new))


@pytest.mark.usefixtures("planted")
def test_the_proof_holds_the_fault_back_and_says_so(whet: Run, chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "culprit"
    result = whet("bisect", chain, *RECIPE, "-o", folder)
    assert result.exit_code == 0, result.output
    assert "the proof refused planted-fault at add3" in result.stdout
    assert "nothing breaks: after 5 rewrites" in result.stdout
    assert not folder.exists()


@pytest.mark.usefixtures("planted")
def test_bisect_as_json(whet: Run, chain: Path, tmp_path: Path) -> None:
    result = whet("bisect", chain, *RECIPE, "--no-verify", "-o", tmp_path / "c", "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 1
    assert data["commits"] == 6
    assert data["culprit"]["step"] == "planted-fault"
    assert data["culprit"]["site"] == "add3"
    assert data["culprit"]["refuted"] is True


def test_a_sound_recipe_has_no_culprit(whet: Run, model: Path, tmp_path: Path) -> None:
    result = whet("bisect", model, "-o", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert "nothing breaks" in result.stdout
