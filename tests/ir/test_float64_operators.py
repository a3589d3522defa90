"""Our float64 kernels against ONNX Runtime's float32 kernels and against formulas."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper

from whet.ir.array import Array
from whet.ir.execute import CannotRun, Executor
from whet.ir.float64 import Float64Executor

OWN = "com.microsoft"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def model(
    op_type: str,
    domain: str,
    attributes: dict[str, object],
    feeds: dict[str, Array],
    wide: bool,
    outputs: int,
) -> bytes:
    names = [name if array is not None else "" for name, array in feeds.items()]
    made = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op_type, names, made, domain=domain, **attributes)
    kind = TensorProto.DOUBLE if wide else TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(
            name,
            kind if array.dtype.kind == "f" else helper.np_dtype_to_tensor_dtype(array.dtype),
            array.shape,
        )
        for name, array in feeds.items()
        if array is not None
    ]
    declared = [helper.make_tensor_value_info(name, kind, None) for name in made]
    graph = helper.make_graph([node], "g", inputs, declared)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def both(
    op_type: str,
    domain: str,
    attributes: dict[str, object],
    feeds: dict[str, Array],
    outputs: int = 1,
) -> tuple[list[Array], list[Array]]:
    """Return what our kernel computes and what ONNX Runtime computes in float32."""
    given = {name: array for name, array in feeds.items() if array is not None}
    narrow = Executor(model(op_type, domain, attributes, feeds, False, outputs)).run(given)
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in given.items()}
    executor = Float64Executor(model(op_type, domain, attributes, feeds, True, outputs))
    return executor.run(wide, [f"y{k}" for k in range(outputs)]), narrow


def agree(found: list[Array], expected: list[Array]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


X = normal(2, 5, 8)
POINTWISE = {
    "erf": ("Erf", "", {}, {"x": X}),
    "gelu": ("Gelu", "", {}, {"x": X}),
    "gelu-tanh": ("Gelu", "", {"approximate": "tanh"}, {"x": X}),
    "hard-sigmoid": ("HardSigmoid", "", {"alpha": 1 / 6}, {"x": 3 * X}),
    "hard-swish": ("HardSwish", "", {}, {"x": 3 * X}),
    "mish": ("Mish", "", {}, {"x": X}),
    "softplus": ("Softplus", "", {}, {"x": X}),
    "own-gelu": ("Gelu", OWN, {}, {"x": X}),
    "bias-gelu": ("BiasGelu", OWN, {}, {"x": X, "b": normal(8)}),
    "fast-gelu": ("FastGelu", OWN, {}, {"x": X}),
    "fast-gelu-bias": ("FastGelu", OWN, {}, {"x": X, "b": normal(8)}),
    "quick-gelu": ("QuickGelu", OWN, {"alpha": 1.3}, {"x": X}),
    "quick-gelu-default": ("QuickGelu", OWN, {}, {"x": X}),
    "simplified": ("SimplifiedLayerNormalization", "", {}, {"x": X, "g": normal(8)}),
    "skip": (
        "SkipLayerNormalization",
        OWN,
        {"epsilon": 1e-3},
        {"x": X, "s": normal(2, 5, 8) + 1, "g": normal(8), "b": normal(8) + 2, "c": normal(8) + 3},
    ),
    "skip-simplified": (
        "SkipSimplifiedLayerNormalization",
        OWN,
        {"epsilon": 1e-3},
        {"x": X, "s": normal(2, 5, 8) + 1, "g": normal(8)},
    ),
    "product": (
        "FusedMatMul",
        OWN,
        {"alpha": 0.3, "transB": 1},
        {"a": normal(2, 3, 4), "b": normal(2, 5, 4)},
    ),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_and_normalizations(name: str) -> None:
    agree(*both(*POINTWISE[name]))


@pytest.mark.parametrize("kind", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_sum_of_a_skip_normalization(kind: str) -> None:
    feeds = {"x": X, "s": normal(2, 5, 8) + 1, "g": normal(8)}
    attributes: dict[str, object] = {"epsilon": 1e-3}
    node = model(kind, OWN, attributes, feeds, True, 4)
    node.graph.node[0].output[1:3] = ["", ""]
    del node.graph.output[1:3]
    wide = {k: v.astype(np.float64) for k, v in feeds.items()}
    _, total = Float64Executor(node).run(wide, ["y0", "y3"])
    np.testing.assert_allclose(total, wide["x"] + wide["s"], rtol=1e-12)


CACHE = np.cos(normal(9, 4)), np.sin(normal(9, 4))
PLACES = np.asarray([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])
ROTARY = {
    "rank-4": ({}, {"x": normal(2, 3, 5, 8), "c": CACHE[0], "s": CACHE[1], "p": PLACES}),
    "interleaved": (
        {"interleaved": 1},
        {"x": normal(2, 3, 5, 8), "c": CACHE[0], "s": CACHE[1], "p": PLACES},
    ),
    "rank-3": (
        {"num_heads": 3},
        {"x": normal(2, 5, 24), "c": CACHE[0], "s": CACHE[1], "p": PLACES},
    ),
    "partial": (
        {"rotary_embedding_dim": 4},
        {"x": normal(2, 3, 5, 8), "c": CACHE[0][:, :2], "s": CACHE[1][:, :2], "p": PLACES},
    ),
    "no-positions": (
        {},
        {"x": normal(2, 3, 5, 8), "c": CACHE[0][PLACES], "s": CACHE[1][PLACES]},
    ),
}


@pytest.mark.parametrize("name", ROTARY)
def test_rotary(name: str) -> None:
    attributes, feeds = ROTARY[name]
    agree(*both("RotaryEmbedding", "", dict(attributes), feeds))


@pytest.mark.parametrize("positions", [PLACES, np.asarray([2])], ids=["each", "offset"])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_own_rotary(positions: Array, interleaved: int) -> None:
    feeds = {"x": normal(2, 3, 5, 8), "p": positions, "c": CACHE[0], "s": CACHE[1]}
    agree(*both("RotaryEmbedding", OWN, {"interleaved": interleaved}, feeds))


def heads(**more: Array) -> dict[str, Array]:
    order = ("q", "k", "v", "b", "m", "a", "pk", "pv")
    feeds = {"q": normal(2, 5, 12), "k": normal(2, 7, 12), "v": normal(2, 7, 18), **more}
    last = max(k for k, name in enumerate(order) if name in feeds)
    return {name: feeds.get(name) for name in order[: last + 1]}


SHORT = np.asarray([3, 7], dtype=np.int32)
KEPT = np.asarray([[1, 1, 0, 1, 1, 0, 0], [1] * 7], dtype=np.int32)
MULTI_HEAD = {
    "plain": ({}, heads()),
    "scaled": ({"scale": 0.2}, heads()),
    "biased": ({}, heads(b=normal(42))),
    "lengths": ({}, heads(m=SHORT)),
    "mask": ({"mask_filter_value": -1e4}, heads(m=KEPT)),
    "added": ({}, heads(a=normal(1, 3, 5, 7))),
    "mask-and-added": ({}, heads(m=KEPT, a=normal(2, 1, 5, 7))),
    "causal": ({"unidirectional": 1}, heads(q=normal(2, 7, 12))),
}


@pytest.mark.parametrize("name", MULTI_HEAD)
def test_multi_head(name: str) -> None:
    attributes, feeds = MULTI_HEAD[name]
    agree(*both("MultiHeadAttention", OWN, {"num_heads": 3, **attributes}, feeds))


def test_multi_head_with_split_keys_and_past() -> None:
    feeds = heads(k=normal(2, 3, 7, 4), v=normal(2, 3, 7, 4))
    agree(*both("MultiHeadAttention", OWN, {"num_heads": 3}, feeds))
    past = heads(
        k=normal(2, 5, 12), v=normal(2, 5, 12), pk=normal(2, 3, 4, 4), pv=normal(2, 3, 4, 4) + 1
    )
    agree(*both("MultiHeadAttention", OWN, {"num_heads": 3}, past, outputs=3))


def grouped(length: int = 6, past: int = 0, **more: Array) -> dict[str, Array]:
    order = ["q", "k", "v", "pk", "pv", "n", "t", "c", "s", "p", "a", "h"]
    feeds = {
        "q": normal(2, length, 32),
        "k": normal(2, length, 16),
        "v": normal(2, length, 16) + 0.5,
        "n": np.full(2, length + past - 1, dtype=np.int32),
        "t": np.asarray(length + past, dtype=np.int32),
        **more,
    }
    if past:
        feeds |= {"pk": normal(2, 2, past, 8), "pv": normal(2, 2, past, 8) - 1}
    last = max(k for k, name in enumerate(order) if name in feeds)
    return {name: feeds.get(name) for name in order[: last + 1]}


WIDE = {"num_heads": 2, "kv_num_heads": 1}
TABLE = np.cos(normal(9, 8)), np.sin(normal(9, 8))
GROUPED = {
    "plain": ({}, grouped()),
    "scaled": ({"scale": 0.2}, grouped()),
    "capped": ({"softcap": 5.0}, grouped()),
    "window": ({"local_window_size": 3}, grouped()),
    "rotary": ({"do_rotary": 1, **WIDE}, grouped(c=TABLE[0], s=TABLE[1])),
    "rotary-interleaved": (
        {"do_rotary": 1, "rotary_interleaved": 1, **WIDE},
        grouped(c=TABLE[0], s=TABLE[1]),
    ),
    "added": ({}, grouped(a=normal(1, 4, 6, 6))),
    "sink": ({}, grouped(h=normal(4))),
    "smooth": ({"smooth_softmax": 1}, grouped()),
    "past": ({}, grouped(1, past=4)),
}


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_query(name: str) -> None:
    attributes, feeds = GROUPED[name]
    attributes = {"num_heads": 4, "kv_num_heads": 2, **attributes}
    agree(*both("GroupQueryAttention", OWN, attributes, feeds, outputs=3))


ACTIVATIONS = {
    "none": {},
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "LeakyRelu": {"activation_params": [0.3]},
    "Clip": {"activation_params": [-0.5, 0.7]},
    "HardSigmoid": {"activation_params": [0.3, 0.4]},
}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused_convolution(name: str, residual: bool) -> None:
    feeds = {"x": normal(2, 3, 6, 7), "w": normal(4, 3, 3, 3), "b": normal(4)}
    if residual:
        feeds["z"] = normal(2, 4, 6, 7) + 1
    attributes = {"pads": [1] * 4, **ACTIVATIONS[name]}
    if name != "none":
        attributes["activation"] = name
    agree(*both("FusedConv", OWN, attributes, feeds))


def test_error_function_is_exact() -> None:
    x = np.asarray([-6.0, -1e-9, 0.0, 0.5, 1.0, 3.0])
    node = model("Erf", "", {}, {"x": x.astype(np.float32)}, True, 1)
    (found,) = Float64Executor(node).run({"x": x}, ["y0"])
    assert found.tolist() == [math.erf(v) for v in x]


def refuses(
    op_type: str, attributes: dict[str, object], feeds: dict[str, Array], reason: str
) -> None:
    executor = Float64Executor(model(op_type, OWN, attributes, feeds, True, 1))
    with pytest.raises(CannotRun, match=reason):
        executor.run({k: v for k, v in feeds.items() if v is not None}, ["y0"])


def test_refuses_what_has_no_kernel() -> None:
    packed = {"q": normal(2, 5, 3, 3, 4)}
    refuses("MultiHeadAttention", {"num_heads": 3}, packed, "packed operands")
    ragged = grouped(n=np.asarray([3, 5], dtype=np.int32))
    sizes = {"num_heads": 4, "kv_num_heads": 2}
    refuses("GroupQueryAttention", sizes, ragged, "different lengths")
    refuses("GroupQueryAttention", {**sizes, "causal": 0}, grouped(), "no causal mask")
    feeds = {"x": normal(1, 3, 6, 7), "w": normal(4, 3, 3, 3)}
    refuses("FusedConv", {"activation": "Elu"}, feeds, "activation 'Elu'")
    rows = {"a": normal(2, 3, 4), "b": normal(2, 4, 5)}
    refuses("FusedMatMul", {"transBatchA": 1}, rows, "transposed batches")
