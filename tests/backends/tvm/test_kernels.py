"""Kernels of our own at sizes that vectors, tiles and threads do not divide, with what follows them."""

from pathlib import Path

import numpy as np
import pytest
from tvm_models import draw, parsed, same


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 5, 3), (7, 33, 17), (37, 64, 100), (130, 16, 48)]
)
def test_a_product_with_bias_gelu_and_residual(
    tmp_path: Path, rows: int, inputs: int, outputs: int
) -> None:
    text = f"""(float[{rows},{inputs}] x, float[{rows},{outputs}] r) => (float[{rows},{outputs}] y) {{
        h = MatMul(x, w)
        b = Add(c, h)
        g = Gelu(b)
        y = Sub(r, g)
    }}"""
    weights = {"w": draw(inputs, outputs), "c": draw(outputs, seed=1)}
    same(parsed(text, weights), tmp_path, {"x": draw(rows, inputs), "r": draw(rows, outputs)})


@pytest.mark.parametrize("wide", [16, 64])
@pytest.mark.parametrize("rows", [5, 37])
def test_blocks_of_zeros_are_left_out(tmp_path: Path, rows: int, wide: int) -> None:
    matrix = draw(48, 128)
    kept = np.random.default_rng(5).random((48, 128 // wide)) < 0.1
    kept[:, 0] = False
    matrix *= np.repeat(kept, wide, axis=1)
    text = f"(float[{rows},48] x) => (float[{rows},128] y) {{ h = MatMul(x, w)  a = Add(h, c)  y = Relu(a) }}"
    model = parsed(text, {"w": matrix, "c": draw(128)})
    same(model, tmp_path, {"x": draw(rows, 48)})
    weights = np.load(tmp_path / "model.npz")
    assert max(w.size for w in weights.values()) < 0.5 * matrix.size


@pytest.mark.parametrize("text", [
    "(float[2,3,5,7] a, float[2,3,7,9] b) => (float[2,3,5,9] y) { y = MatMul(a, b) }",
    "(float[4,1,5,16] a, float[3,16,32] b) => (float[4,3,5,32] y) { y = MatMul(a, b) }",
    "(float[7] a, float[3,7,2] b) => (float[3,2] y) { y = MatMul(a, b) }",
    "(float[6,4] a, float[6,5] b, float[5] c) => (float[4,5] y) { y = Gemm <transA = 1, alpha = 0.5> (a, b, c) }",
])  # fmt: skip
def test_products_of_two_tensors(tmp_path: Path, text: str) -> None:
    model = parsed(text)
    feeds = {v.name: draw(*v.shape, seed=k) for k, v in enumerate(model.graph.inputs)}
    same(model, tmp_path, feeds)


@pytest.mark.parametrize(("shape", "weight", "options"), [
    ((1, 3, 9, 9), (8, 3, 3, 3), "pads = [1, 1, 1, 1]"),
    ((2, 16, 8, 8), (33, 16, 3, 3), "pads = [1, 1, 1, 1], strides = [2, 2]"),
    ((1, 8, 7, 10), (16, 8, 2, 3), "pads = [0, 1, 1, 2], dilations = [2, 1]"),
    ((1, 16, 6, 6), (20, 16, 1, 1), "pads = [0, 0, 0, 0]"),
    ((1, 12, 6, 6), (24, 4, 3, 3), "group = 3"),
    ((2, 19, 7, 7), (19, 1, 3, 3), "group = 19, pads = [1, 1, 1, 1]"),
    ((1, 6, 11), (10, 6, 4), "strides = [3]"),
])  # fmt: skip
def test_convolutions(
    tmp_path: Path, shape: tuple[int, ...], weight: tuple[int, ...], options: str
) -> None:
    dims = ",".join(map(str, shape))
    text = f"""(float[{dims}] x) => (float y) {{
        h = Conv <{options}> (x, w, b)
        a = Relu(h)
        m = Mul(a, s)
        y = Add(m, a)
    }}"""
    scale = draw(1, weight[0], *[1] * (len(shape) - 2), seed=3)
    weights = {"w": draw(*weight, seed=1), "b": draw(weight[0], seed=2), "s": scale}
    same(parsed(text, weights), tmp_path, {"x": draw(*shape)})


@pytest.mark.parametrize(("queries", "keys", "size", "options", "mask"), [
    (5, 5, 8, "is_causal = 1", ""),
    (13, 21, 16, "scale = 0.3", "float[2,1,13,21] m"),
    (9, 33, 12, "softcap = 5.0", "bool[1,4,9,33] m"),
    (70, 70, 32, "scale = 0.1", ""),
])  # fmt: skip
def test_attention(
    tmp_path: Path, queries: int, keys: int, size: int, options: str, mask: str
) -> None:
    more = f", {mask}" if mask else ""
    text = f"""(float[2,4,{queries},{size}] q, float[2,2,{keys},{size}] k, float[2,2,{keys},{size}] v{more})
        => (float[2,4,{queries},{size}] y) {{ y = Attention <{options}> (q, k, v{", m" if mask else ""}) }}"""
    model = parsed(text)
    feeds = {v.name: draw(*v.shape, seed=k) for k, v in enumerate(model.graph.inputs)}
    if mask.startswith("bool"):
        feeds["m"] = feeds["m"] > -1
        feeds["m"][..., 0] = True
    same(model, tmp_path, feeds)


@pytest.mark.parametrize("size", [5, 16, 100])
def test_rows(tmp_path: Path, size: int) -> None:
    text = f"""(float[3,{size}] x) => (float[3,{size}] n, float[3,{size}] r, float[3,{size}] s, float[3,{size}] l) {{
        n = LayerNormalization(x, w, b)
        r = RMSNormalization(x, w)
        s = Softmax(x)
        l = LogSoftmax(x)
    }}"""
    same(parsed(text, {"w": draw(size), "b": draw(size, seed=1)}), tmp_path, {"x": draw(3, size)})


def test_functions_of_one_element(tmp_path: Path) -> None:
    kinds = ["Exp", "Tanh", "Erf", "Sigmoid", "Gelu", "Softplus", "Mish", "Log"]
    outputs = ", ".join(f"float[64] y{k}" for k in range(len(kinds)))
    nodes = "\n".join(f"y{k} = {kind}(x)" for k, kind in enumerate(kinds))
    model = parsed(f"(float[64] x) => ({outputs}) {{ {nodes} }}")
    x = np.linspace(-20, 20, 64).astype(np.float32)
    same(model, tmp_path / "wide", {"x": np.abs(x) + 0.01})
    for value in np.linspace(-0.4, 0.4, 2):
        same(model, tmp_path / str(value), {"x": np.abs(x * np.float32(value)) + np.float32(1e-3)})
