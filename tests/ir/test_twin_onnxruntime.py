"""ONNX Runtime's own operators, and quantized ones, against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import helper

from whet.errors import UnsupportedModel

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

MICROSOFT = "com.microsoft"

# Weights stay within 7 bits: without VNNI the runtime sums pairs of products in 16 bits.


def compare(
    op_type: str,
    inputs: dict[str, np.ndarray | None],
    outputs: int = 1,
    domain: str = MICROSOFT,
    *,
    compared: tuple[int, ...] = (0,),
    opset: int = 21,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **attributes: Any,
) -> None:
    """Run one node in both and compare some of its outputs."""
    given = {name: array for name, array in inputs.items() if array is not None}
    names = [name if name in given else "" for name in inputs]
    results = [f"y{number}" if number in compared else "" for number in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in results if name],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, given)
    twin = twin_package.to_fx(onnx_ir.from_proto(proto))
    actual = twin(*(torch.from_numpy(array) for array in given.values()))
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.numpy().dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=rtol, atol=atol)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def whole(low: int, high: int, *shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul(trans_a: int, trans_b: int) -> None:
    a = normal(2, *((4, 3) if trans_a else (3, 4)))
    b = normal(2, *((5, 4) if trans_b else (4, 5)), seed=1)
    compare("FusedMatMul", {"a": a, "b": b}, alpha=0.5, transA=trans_a, transB=trans_b)


@pytest.mark.parametrize("op_type", ["Gelu", "QuickGelu", "FastGelu"])
def test_gelus(op_type: str) -> None:
    tolerance = 1e-3 if op_type == "FastGelu" else 1e-5
    compare(op_type, {"x": normal(3, 7)}, atol=tolerance)


@pytest.mark.parametrize("op_type", ["BiasGelu", "FastGelu"])
def test_gelus_with_bias(op_type: str) -> None:
    compare(op_type, {"x": normal(3, 8), "bias": normal(8, seed=1)}, atol=1e-3)


def test_skip_layer_normalization() -> None:
    inputs = {
        "x": normal(2, 3, 8),
        "skip": normal(2, 3, 8, seed=1),
        "gamma": normal(8, seed=2),
        "beta": normal(8, seed=3),
        "bias": normal(8, seed=4),
    }
    compare("SkipLayerNormalization", inputs, 4, compared=(0, 3), epsilon=1e-5)


def test_skip_simplified_layer_normalization() -> None:
    inputs = {"x": normal(2, 3, 8), "skip": normal(2, 3, 8, seed=1), "gamma": normal(8, seed=2)}
    compare("SkipSimplifiedLayerNormalization", inputs, 4, compared=(0, 3), epsilon=1e-5)


def test_simplified_layer_normalization() -> None:
    inputs = {"x": normal(2, 3, 8), "scale": normal(8, seed=1)}
    compare("SimplifiedLayerNormalization", inputs, 1, "", epsilon=1e-5, axis=-1)


@pytest.mark.parametrize("unidirectional", [0, 1])
def test_multi_head_attention(unidirectional: int) -> None:
    inputs = {
        "q": normal(2, 4, 8),
        "k": normal(2, 4, 8, seed=1),
        "v": normal(2, 4, 8, seed=2),
        "bias": normal(24, seed=3),
        "key_padding_mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        "attention_bias": normal(2, 2, 4, 4, seed=4),
    }
    compare("MultiHeadAttention", inputs, num_heads=2, unidirectional=unidirectional)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"scale": 0.3, "softcap": 1.5}])
def test_group_query_attention(bias: bool, attributes: dict[str, float]) -> None:
    inputs = {
        "q": normal(2, 4, 32),
        "k": normal(2, 4, 16, seed=1),
        "v": normal(2, 4, 16, seed=2),
        "past_key": None,
        "past_value": None,
        "seqlens_k": np.full(2, 3, np.int32),
        "total_sequence_length": np.asarray(4, np.int32),
        "cos_cache": None,
        "sin_cache": None,
        "position_ids": None,
        "attention_bias": normal(1, 4, 4, 4, seed=3) if bias else None,
    }
    compare("GroupQueryAttention", inputs, 3, num_heads=4, kv_num_heads=2, **attributes)


def test_group_query_attention_appends_to_a_past() -> None:
    inputs = {
        "q": normal(2, 1, 32),
        "k": normal(2, 1, 16, seed=1),
        "v": normal(2, 1, 16, seed=2),
        "past_key": normal(2, 2, 3, 8, seed=3),
        "past_value": normal(2, 2, 3, 8, seed=4),
        "seqlens_k": np.full(2, 3, np.int32),
        "total_sequence_length": np.asarray(4, np.int32),
    }
    compare("GroupQueryAttention", inputs, 3, compared=(0, 1, 2), num_heads=4, kv_num_heads=2)


def test_a_group_query_attention_that_rotates_has_no_twin() -> None:
    inputs = {
        "q": normal(1, 4, 64),
        "k": normal(1, 4, 32, seed=1),
        "v": normal(1, 4, 32, seed=2),
        "past_key": None,
        "past_value": None,
        "seqlens_k": np.full(1, 3, np.int32),
        "total_sequence_length": np.asarray(4, np.int32),
        "cos_cache": normal(4, 8),
        "sin_cache": normal(4, 8, seed=1),
    }
    with pytest.raises(UnsupportedModel, match="rotation"):
        compare("GroupQueryAttention", inputs, 3, num_heads=4, kv_num_heads=2, do_rotary=1)


@pytest.mark.parametrize("unidirectional", [0, 1])
def test_packed_attention(unidirectional: int) -> None:
    inputs = {
        "x": normal(2, 4, 8),
        "weights": normal(8, 24, seed=1),
        "bias": normal(24, seed=2),
        "mask_index": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
    }
    compare("Attention", inputs, num_heads=2, unidirectional=unidirectional)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_n_bits(bits: int, zero_points: bool) -> None:
    k, n, block = 48, 5, 16
    inputs = {
        "a": normal(3, k),
        "b": whole(0, 256, n, k // block, block * bits // 8),
        "scales": normal(n * (k // block), seed=1),
        "zero_points": whole(0, 256, n * -(-(k // block) * bits // 8)) if zero_points else None,
    }
    compare("MatMulNBits", inputs, K=k, N=n, bits=bits, block_size=block, rtol=1e-4, atol=1e-3)


def test_dynamic_quantize_matmul() -> None:
    inputs = {
        "a": normal(3, 8),
        "b": whole(-63, 64, 8, 5, dtype=np.int8),
        "b_scale": np.abs(normal(5)) / 100,
        "b_zero_point": None,
        "bias": normal(5, seed=1),
    }
    compare("DynamicQuantizeMatMul", inputs)


def test_qlinear_conv_per_channel() -> None:
    inputs = {
        "x": whole(0, 256, 1, 3, 7, 6),
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(120, np.uint8),
        "w": whole(-63, 64, 4, 3, 3, 3, dtype=np.int8),
        "w_scale": np.array([0.01, 0.02, 0.005, 0.03], np.float32),
        "w_zero": np.zeros(4, np.int8),
        "y_scale": np.array(0.3, np.float32),
        "y_zero": np.array(128, np.uint8),
        "bias": whole(-999, 999, 4, dtype=np.int32),
    }
    compare("QLinearConv", inputs, 1, "", pads=[1, 1, 0, 1], strides=[2, 1], atol=1)


@pytest.mark.parametrize("axis", [0, 1])
def test_blocked_quantization(axis: int) -> None:
    x = normal(4, 8)
    shape = (2, 8) if axis == 0 else (4, 4)
    inputs = {"x": x, "scale": np.abs(normal(*shape, seed=1)) / 20 + 0.01}
    attributes = {"axis": axis, "block_size": 2, "output_dtype": onnx.TensorProto.INT8}
    compare("QuantizeLinear", inputs, 1, "", **attributes)


def test_four_bit_zero_points_are_told_from_bytes() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 21]>
    narrow (float[4] x) => (int4[4] y)
    { scale = Constant <value = float {1.0}> ()
      zero = Constant <value = int4 {1}> ()
      y = QuantizeLinear (x, scale, zero) }
    """
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(text))
    (y,) = twin(torch.tensor([-20.0, -2.0, 3.0, 20.0]))
    assert y.tolist() == [-8, -1, 4, 7]


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", []),
        ("Sigmoid", []),
        ("Tanh", []),
        ("LeakyRelu", [0.1]),
        ("Clip", [0.0, 1.5]),
        ("HardSigmoid", [0.2, 0.4]),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_fused_conv(activation: str, parameters: list[float], skip: bool) -> None:
    inputs = {
        "x": normal(2, 4, 6, 5),
        "w": normal(6, 2, 3, 3, seed=1),
        "b": normal(6, seed=2),
        "z": normal(2, 6, 3, 3, seed=3) if skip else None,
    }
    more = {"activation_params": parameters} if parameters else {}
    compare(
        "FusedConv",
        inputs,
        activation=activation,
        group=2,
        pads=[1, 1, 1, 1],
        strides=[2, 2],
        **more,
    )


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("places", [False, True])
def test_embed_layer_normalization(kinds: bool, places: bool) -> None:
    inputs = {
        "ids": whole(0, 9, 2, 5, dtype=np.int32),
        "kinds": whole(0, 2, 2, 5, dtype=np.int32) if kinds else None,
        "words": normal(9, 8),
        "positions": normal(7, 8, seed=1),
        "types": normal(2, 8, seed=2) if kinds else None,
        "scale": normal(8, seed=3),
        "shift": normal(8, seed=4),
        "mask": whole(0, 2, 2, 5, dtype=np.int32),
        "places": whole(0, 7, 1, 5, dtype=np.int32) if places else None,
    }
    compare("EmbedLayerNormalization", inputs, 3, compared=(0, 1, 2), epsilon=1e-5)
