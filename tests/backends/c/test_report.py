"""What the page and the header say about limits and packed weights."""

from pathlib import Path

import numpy as np
import onnx
from c_artifacts import lower
from onnx import TensorProto, helper
from report_maker import make_report

from whet.tools.report.view import _verdict


def test_limits_of_a_device_are_limits() -> None:
    record = make_report().to_json()
    record["limits"] = dict.fromkeys(("drop", "bytes", "ms")) | {
        "ram": 1000,
        "flash": None,
        "missed": [],
    }
    record["search"] = None
    assert _verdict(record) == ("kept", ["RAM of the device 1,000 bytes"])
    record["limits"]["missed"] = ["RAM is 2,000 bytes"]
    assert _verdict(record)[0] == "missed"
    record["limits"]["ram"] = None
    assert _verdict(record)[0] == "none"


def test_packed_weights_are_said_to_be_unpacked(tmp_path: Path) -> None:
    codes = np.arange(64, dtype=np.int8).reshape(8, 8) % 15 - 7
    constants = {"w": codes, "s": np.float32(0.1)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 8]) for n in "xy"]
    weights = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    footprint = lower(model, tmp_path)
    assert "four bits or fewer were unpacked" in (tmp_path / "model.h").read_text()
    assert footprint.constants == 64  # the weights stay integers although the operand is float
