"""Operators as the runtime runs them: their layer, their time, the least work."""

from pathlib import Path

import numpy as np
import pytest
from folding import build

from whet.backends.base import RuntimeOptions
from whet.backends.operator_times import operator_times
from whet.ir.execute import CannotRun
from whet.ir.saving import save_model

RNG = np.random.default_rng(0)


def profile(text: str, weights: dict, names: list[str], feeds: dict, folder: Path):
    model = build(text, weights)
    for node, name in zip(model.graph, names, strict=True):
        node.name = name
    save_model(model, folder / "model.onnx")
    return operator_times(folder / "model.onnx", RuntimeOptions(1), feeds, runs=2)


def test_products_and_what_only_moves_bytes(tmp_path: Path) -> None:
    w = RNG.standard_normal((8, 6)).astype(np.float32)
    text = "(float[N,8] x) => (float[N,6] y) { a = MatMul (x, w) y = Softmax (a) }"
    feeds = {"x": np.ones((4, 8), np.float32)}
    product, soft = profile(text, {"w": w}, ["layer", "soft"], feeds, tmp_path)
    assert (product.op, product.layer, product.integer) == ("MatMul", "layer", False)
    assert product.flops == 2 * 4 * 8 * 6
    assert product.bytes == 4 * (4 * 8 + 8 * 6 + 4 * 6)
    assert product.ms > 0
    assert (soft.layer, soft.flops, soft.bytes) == ("soft", 0.0, 2 * 4 * 4 * 6)


def test_fused_convolutions_belong_to_their_layer(tmp_path: Path) -> None:
    w = RNG.standard_normal((16, 16, 3, 3)).astype(np.float32)
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu (a) }"""
    feeds = {"x": np.ones((1, 16, 8, 8), np.float32)}
    found = profile(text, {"w": w}, ["conv", "relu"], feeds, tmp_path)
    (layer,) = [row for row in found if row.flops]
    assert layer.layer == "conv"
    assert layer.flops == 2 * 16 * 64 * 16 * 9


def test_quantized_convolutions_know_their_decoded_weight(tmp_path: Path) -> None:
    codes = RNG.integers(-100, 100, (16, 16, 3, 3)).astype(np.int8)
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y) {
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) w = DequantizeLinear (c, s, zw)
        a = Conv <pads = [1, 1, 1, 1]> (d, w) b = QuantizeLinear (a, s, z) y = DequantizeLinear (b, s, z) }"""
    weights = {"c": codes, "s": np.asarray(0.1, np.float32), "z": np.asarray(128, np.uint8)}
    weights["zw"] = np.asarray(0, np.int8)
    feeds = {"x": np.ones((1, 16, 8, 8), np.float32)}
    names = ["q", "d", "dw", "conv", "out", "back"]
    found = profile(text, weights, names, feeds, tmp_path)
    (layer,) = [row for row in found if row.op == "QLinearConv"]
    assert (layer.layer, layer.integer, layer.flops) == ("conv", True, 2 * 16 * 64 * 16 * 9)


def test_what_does_not_run_says_why(tmp_path: Path) -> None:
    text = "(float[2,8] x) => (float[2,8] y) { y = Relu (x) }"
    with pytest.raises(CannotRun, match="x"):
        profile(text, {}, ["relu"], {"x": np.ones((3, 8), np.float32)}, tmp_path)
