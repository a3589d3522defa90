"""Weights before and after, found by name and decoded."""

import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.analysis.weight_histograms import find_histogram, histogram

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 6)).astype(np.float32)
CODES = np.clip(np.round(W / 0.05), -127, 127).astype(np.int8)
SCALE = np.asarray(0.05, np.float32)


def named(text: str, weights: dict, name: str, index: int = -1) -> onnx_ir.Model:
    model = build(text, weights)
    list(model.graph)[index].name = name
    return model


SOURCE = named("(float[N,8] x) => (float[N,6] y) { y = MatMul (x, w) }", {"w": W}, "layer")


def test_both_are_counted_in_the_same_bins() -> None:
    found = histogram("s", np.asarray([0.0, 0.5, 1.0]), np.asarray([-9.0, 0.0, 1.0, 1.0]))
    assert (found.low, found.high, found.distinct) == (0.0, 1.0, 3)
    assert sum(found.before) == 3
    assert found.after is not None
    assert (found.after[0], found.after[-1], sum(found.after)) == (2, 2, 4)


def test_a_constant_weight_has_a_range() -> None:
    found = histogram("s", np.zeros(4), None)
    assert found.low < found.high
    assert sum(found.before) == 4
    assert found.after is None


def test_decoded_weights_are_computed() -> None:
    result = named(
        "(float[N,8] x) => (float[N,6] y) { d = DequantizeLinear (q, s) y = MatMul (x, d) }",
        {"q": CODES, "s": SCALE},
        "layer.2",
    )
    found = find_histogram(SOURCE, result, "layer")
    assert found is not None
    assert found.distinct == len(np.unique(CODES))
    assert sum(found.after or ()) == W.size


def test_integer_products_are_decoded_with_their_scale() -> None:
    text = """(float[N,8] x) => (float[N,6] y) {
        a, xs, xz = DynamicQuantizeLinear (x) i = MatMulInteger (a, q, xz) f = Cast <to = 1> (i)
        both = Mul (xs, s) y = Mul (f, both) }"""
    result = named(text, {"q": CODES, "s": SCALE}, "layer.3", 1)
    found = find_histogram(SOURCE, result, "layer")
    assert found is not None
    assert found.distinct == len(np.unique(CODES))
    exact = histogram("layer", W, CODES.astype(np.float32) * SCALE)
    assert found.after == exact.after


def test_a_turned_weight_is_found_and_an_unknown_layer_is_none() -> None:
    source = named(
        "(float[N,8] x) => (float[N,6] y) { t = Transpose (w) y = MatMul (x, t) }",
        {"w": np.ascontiguousarray(W.T)},
        "layer",
    )
    found = find_histogram(source, SOURCE, "layer")
    assert found is not None
    assert found.before == found.after
    assert find_histogram(SOURCE, SOURCE, "nobody") is None


def test_a_product_of_two_inputs_has_no_weights() -> None:
    text = "(float[N,8] x, float[8,6] w) => (float[N,6] y) { y = MatMul (x, w) }"
    assert find_histogram(named(text, {}, "layer"), SOURCE, "layer") is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_shown(value: float) -> None:
    broken = W.copy()
    broken[0, 0] = value
    source = named("(float[N,8] x) => (float[N,6] y) { y = MatMul (x, w) }", {"w": broken}, "layer")
    assert find_histogram(source, SOURCE, "layer") is None
