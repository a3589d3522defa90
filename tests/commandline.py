"""What the tests of the command line share."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from typer.testing import Result

Run = Callable[..., Result]


def make_model(*, scale: float = 1.0, batch: int | str = "batch") -> onnx.ModelProto:
    """Return Relu(x W1 + b) W2 with an Identity and a pair of transposes that cancel."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 16)),
        "b": rng.standard_normal(16),
        "w2": scale * rng.standard_normal((16, 4)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"], "first"),
        helper.make_node("Add", ["hidden", "b"], ["biased"], "bias"),
        helper.make_node("Identity", ["biased"], ["same"], "copy"),
        helper.make_node("Transpose", ["same"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["back"], "turn_back", perm=[1, 0]),
        helper.make_node("Relu", ["back"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
