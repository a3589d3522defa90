"""What the lifts rely on: ONNX's reference, ONNX Runtime and the twin give operators one meaning."""

import itertools

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from whet.ir.execute import CannotRun, Executor
from whet.ir.values import Array
from whet.passes.proof import compare

torch = pytest.importorskip("torch", reason="the twin needs torch")
twin = pytest.importorskip("whet.ir.twin")


def one_node(
    op_type: str, feeds: dict[str, Array], outputs: int = 1, **attributes: int
) -> onnx.ModelProto:
    results = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op_type, list(feeds), results, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in results]
    graph = helper.make_graph([node], "one", inputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def agree(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    expected = ReferenceEvaluator(model).run(None, feeds)
    actual = Executor(model).run(feeds)
    graph = twin.to_fx(onnx_ir.from_proto(model))
    third = [t.numpy() for t in graph(*(torch.from_numpy(a) for a in feeds.values()))]
    for one, other, another in zip(expected, actual, third, strict=True):
        assert compare(one, other) <= 1e-5
        assert compare(one, another) <= 1e-5


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("interleaved", "turned", "table"), list(itertools.product((0, 1), (0, 4, 6), (False, True)))
)
def test_rotary_embedding(interleaved: int, turned: int, table: bool) -> None:
    pairs = (turned or 8) // 2
    feeds = {"x": normal(2, 3, 5, 8)}
    rows = (11,) if table else (2, 5)
    feeds |= {"cos": normal(*rows, pairs), "sin": normal(*rows, pairs) ** 2}
    if table:
        feeds["ids"] = np.arange(10).reshape(2, 5)
    options = {"interleaved": interleaved, "rotary_embedding_dim": turned}
    agree(one_node("RotaryEmbedding", feeds, **options), feeds)


def test_rotary_embedding_does_not_broadcast_and_takes_no_negative_position() -> None:
    """Why angles are repeated for the batch, and rows are gathered outside."""
    feeds = {"x": normal(2, 3, 5, 8), "cos": normal(1, 5, 4), "sin": normal(1, 5, 4)}
    with pytest.raises(CannotRun, match="cos_cache"):
        Executor(one_node("RotaryEmbedding", feeds)).run(feeds)
    feeds |= {"cos": normal(11, 4), "sin": normal(11, 4), "ids": np.full((2, 5), -1)}
    with pytest.raises(CannotRun, match="position_ids"):
        Executor(one_node("RotaryEmbedding", feeds)).run(feeds)


@pytest.mark.parametrize(
    ("keys", "past", "causal"), list(itertools.product((4, 2, 1), (0, 3), (0, 1)))
)
def test_attention_with_shared_heads_and_a_past(keys: int, past: int, causal: int) -> None:
    feeds = {
        "q": normal(2, 4, 3, 8),
        "k": normal(2, keys, 3, 8),
        "v": normal(2, keys, 3, 6),
        "mask": normal(3, 3 + past),
        "pk": normal(2, keys, past, 8),
        "pv": normal(2, keys, past, 6),
    }
    agree(one_node("Attention", feeds, outputs=3, is_causal=causal), feeds)
