"""Lower opsets: the same numbers from an older operator set, or a reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from whet.errors import UnsupportedTarget
from whet.ir.execute import Executor
from whet.ir.opset_lower import lower_opset
from whet.ir.verify import verify

Shapes = Mapping[str, Sequence[int]]


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), kind.lower(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shapes: Shapes,
    constants: Mapping[str, np.ndarray] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    outputs = nodes[-1].output
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, dtype, None) for n in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


ONES = np.ones(8, np.float32)
HEADS = {"q": [1, 4, 6, 8], "k": [1, 4, 6, 8], "v": [1, 4, 6, 8]}
CASES = {
    "attention": (model([node("Attention", "q k v", is_causal=1)], HEADS), 17),
    "grouped heads": (
        model(
            [node("Attention", "q k v", q_num_heads=4, kv_num_heads=2)],
            {"q": [1, 6, 32], "k": [1, 6, 16], "v": [1, 6, 16]},
        ),
        15,
    ),
    "rms": (model([node("RMSNormalization", "x w")], {"x": [2, 8]}, {"w": 2 * ONES}), 13),
    "layer": (model([node("LayerNormalization", "x w")], {"x": [2, 8]}, {"w": 2 * ONES}), 13),
    "gelu": (model([node("Gelu", "x", approximate="tanh")], {"x": [2, 8]}), 13),
    "two": (model([node("HardSwish", "x", "h"), node("Mish", "h")], {"x": [2, 8]}), 13),
    "mean": (
        model([node("ReduceMean", "x ax", keepdims=0)], {"x": [2, 8]}, {"ax": np.array([1])}),
        13,
    ),
    "group": (
        model(
            [node("GroupNormalization", "x s b", num_groups=2)],
            {"x": [2, 8, 3]},
            {"s": np.arange(8, dtype=np.float32), "b": ONES},
        ),
        18,
    ),
    "split": (model([node("Split", "x", "y z", num_outputs=2, axis=1)], {"x": [2, 8]}), 13),
    "rotary": (
        model(
            [node("RotaryEmbedding", "x c s")],
            {"x": [2, 4, 3, 8], "c": [2, 3, 4], "s": [2, 3, 4]},
        ),
        17,
    ),
    "pool": (
        model(
            [node("AveragePool", "x", kernel_shape=[2, 2], dilations=[1, 1])], {"x": [1, 2, 6, 6]}
        ),
        13,
    ),
    "reshape": (
        model([node("Reshape", "x s", allowzero=0)], {"x": [2, 8]}, {"s": np.array([4, 4])}),
        13,
    ),
    "grid": (
        model([node("GridSample", "x g", mode="linear")], {"x": [1, 2, 5, 5], "g": [1, 3, 3, 2]}),
        16,
    ),
    "like": (model([node("CastLike", "x z")], {"x": [2, 8], "z": [1]}), 13),
}


@pytest.mark.parametrize("name", CASES)
def test_an_older_opset_computes_the_same(name: str) -> None:
    source, to = CASES[name]
    before = source.SerializeToString()
    ir_model = onnx_ir.from_proto(source)
    lowered = lower_opset(ir_model, to)
    verify(lowered)
    assert lowered.graph.opset_imports[""] == to
    proto = onnx_ir.to_proto(lowered)
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim], np.float32)
        for i in source.graph.input
    }
    for want, got in zip(Executor(source).run(feeds), Executor(proto).run(feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert onnx_ir.to_proto(ir_model).SerializeToString()
    assert source.SerializeToString() == before


def test_a_model_that_is_old_enough_is_returned() -> None:
    source = onnx_ir.from_proto(CASES["mean"][0])
    assert lower_opset(source, 23) is source


REFUSED = {
    "axes ax are computed": (
        model([node("ReduceMean", "x ax", keepdims=0)], {"x": [2, 8], "ax": [1]}),
        17,
        "ReduceMean 'reducemean' has axes that are computed ('ax')",
    ),
    "attribute": (
        model([node("Shape", "x", "s", start=1), node("Reshape", "x s")], {"x": [2, 8]}),
        13,
        "Shape 'shape' has start=1, which opset 13 lacks",
    ),
    "operator": (
        model([node("BitwiseNot", "x")], {"x": [2]}, dtype=TensorProto.INT32),
        17,
        "BitwiseNot 'bitwisenot' is an operator of opset 18",
    ),
    "parts": (
        model([node("Split", "x", "y z", num_outputs=2, axis=1)], {"x": [2, 7]}),
        17,
        "Split 'split' makes 2 parts of 7 elements",
    ),
    "types": (
        model([node("Relu", "x")], {"x": [2]}, dtype=TensorProto.INT32),
        13,
        "Relu 'relu' has elements of int32 ('x'), opset 13 takes none there",
    ),
    "attention": (
        model([node("Attention", "q k v")], HEADS),
        13,
        "Shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_older_opset_cannot_say_is_named(name: str) -> None:
    source, to, words = REFUSED[name]
    with pytest.raises(UnsupportedTarget) as caught:
        lower_opset(onnx_ir.from_proto(source), to)
    assert f"the device's newest opset is {to}: " in str(caught.value)
    assert words in str(caught.value)
