"""A layer of ORT's MoE operator as a model, and what it computes in plain words."""

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper

from whet.ir.values import Array


def operator_weights(
    experts: int = 4, units: int = 6, width: int = 8, *, double: bool = False, seed: int = 0
) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    rows = units * (2 if double else 1)
    shapes = {
        "wr": (width, experts),
        "w1": (experts, rows, width),
        "b1": (experts, rows),
        "w2": (experts, width, units),
        "b2": (experts, width),
    }
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


def operator_model(
    activation: str = "relu",
    k: int = 2,
    experts: int = 4,
    units: int = 6,
    *,
    normalize: int = 1,
    operator: str = "MoE",
    **attributes: int,
) -> onnx_ir.Model:
    """Build ``r = x wr, y = x + MoE(x, r)``."""
    weights = operator_weights(experts, units, double=activation == "swiglu")
    if activation == "swiglu":
        attributes = {"swiglu_fusion": 1, **attributes}
    moe = helper.make_node(
        operator,
        ["x", "r", "w1", "b1", "w2", "b2"],
        ["m"],
        name="moe",
        domain="com.microsoft",
        k=k,
        activation_type=activation,
        normalize_routing_weights=normalize,
        **attributes,
    )
    nodes = [
        helper.make_node("MatMul", ["x", "wr"], ["r"], name="router"),
        moe,
        helper.make_node("Add", ["x", "m"], ["y"], name="sum"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "moe",
        [helper.make_tensor_value_info("x", kind, ["N", 8])],
        [helper.make_tensor_value_info("y", kind, ["N", 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[
            helper.make_tensor_value_info("r", kind, ["N", experts]),
            helper.make_tensor_value_info("m", kind, ["N", 8]),
        ],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
