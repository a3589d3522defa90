"""Never worse, for a device: flash, RAM, and whether it can be emitted at all."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

import whet
from whet.backends.base import RuntimeOptions
from whet.backends.c.plan import Footprint
from whet.backends.c.target import C
from whet.backends.gate import NeverWorse
from whet.errors import UsageError
from whet.ir.bindings import Bindings


def footprint(folder: Path, constants: int, arena: int) -> Path:
    folder.mkdir()
    found = Footprint(constants, arena, arena, (), ())
    (folder / "model.json").write_text(json.dumps({"footprint": found.to_json()}))
    return folder


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((100, 50), (100, 50), ""),
        ((100, 50), (90, 50), ""),
        ((100, 50), (90, 60), ""),
        ((100, 50), (101, 10), "more flash: 100 bytes before, 101 after"),
        ((100, 50), (90, 61), "more RAM than it saves flash: 50 bytes before, 61 after"),
    ],
)
def test_memory_decides(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int], words: str
) -> None:
    folders = footprint(tmp_path / "a", *before), footprint(tmp_path / "b", *after)
    weights = [C().weigh(folder, []) for folder in folders]
    assert C().larger(weights[0], weights[1], folders) == words


def model(kind: str) -> onnx_ir.Model:
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node(kind, ["h"], ["y"])]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx_ir.from_proto(proto)


def test_what_cannot_be_emitted_is_worse_and_what_could_not_be_is_no_measure(
    tmp_path: Path,
) -> None:
    gate = NeverWorse(C(), RuntimeOptions(), Bindings(({},)), tmp_path)
    assert "there is no emitter for this operator" in gate(model("Relu"), model("Acos"))
    assert gate(model("Acos"), model("Relu")) == ""
    assert gate(model("Relu"), model("Relu")) == ""


def test_limits_are_read_at_once() -> None:
    assert whet.Budget(ram="256KB", flash="1MiB").device == (256_000, 1 << 20)
    assert not whet.Budget(ram=1)  # nothing to search for
    with pytest.raises(UsageError, match="ram is 'much', expected something like 256KB"):
        whet.Budget(ram="much")
