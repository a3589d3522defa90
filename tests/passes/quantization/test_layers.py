import numpy as np
import onnx
import pytest
from folding import build, weights
from onnx.reference import ReferenceEvaluator

from whet.errors import CalibrationError
from whet.passes.quantization.layers import find_weights, layers_of, measure_grams
from whet.passes.workbench import Context

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "strides=[2,1], pads=[1,0,2,1]",
        "dilations=[2,1]",
        'auto_pad="SAME_UPPER", strides=[2,2]',
        'auto_pad="SAME_LOWER", strides=[2,2]',
        "group=2, pads=[1,1,1,1]",
    ],
)
def test_patches_times_matrix_is_the_convolution(attributes: str) -> None:
    """Sum y² over all places is sum of w H w over the outputs."""
    groups = 2 if "group" in attributes else 1
    w = RNG.standard_normal((6, 4 // groups, 3, 3)).astype(np.float32)
    kind = f"<{attributes}>" if attributes else ""
    text = f"(float[N,4,7,8] x) => (float[N,6,P,Q] y) {{ y = Conv{kind}(x, w) }}"
    model = build(text, {"w": w})
    x = RNG.standard_normal((3, 4, 7, 8)).astype(np.float32)
    found, refused = find_weights(list(model.graph))
    assert not refused
    grams = measure_grams(model, found, Context(), [{"x": x[:2]}, {"x": x[2:]}])
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    (y,) = ReferenceEvaluator(proto).run(None, {"x": x})
    layers = layers_of(found[0], grams, {})
    assert len(layers) == groups
    energy = np.concatenate([np.vecdot(g.weights @ g.gram, g.weights) for g in layers])
    assert np.allclose(energy, (y.astype(np.float64) ** 2).mean((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_layers_of_outputs_by_inputs(transposed: bool) -> None:
    w = RNG.standard_normal((3, 5) if transposed else (5, 3)).astype(np.float32)
    node = "Gemm<transB=1>(x, w)" if transposed else "Gemm(x, w)"
    model = build(f"(float[N,5] x) => (float[N,3] y) {{ y = {node} }}", {"w": w})
    (found,), _ = find_weights(list(model.graph))
    x = RNG.standard_normal((7, 5)).astype(np.float32)
    (layer,) = layers_of(found, measure_grams(model, [found], Context(), [{"x": x}]), {})
    assert np.array_equal(layer.weights, w if transposed else w.T)
    assert layer.gram is not None
    assert np.allclose(layer.gram, x.T @ x / 7, atol=1e-5)
    assert layers_of(found, {}, {})[0].gram is None


def test_readers_of_one_weight_are_one_layer() -> None:
    text = """(float[N,5] x, int64[2] i) => (float[N,5] y, float[2,5] z)
    { h = MatMul(x, w) y = MatMul(h, w) z = Gather(w, i) }"""
    model = build(text, weights(w=(5, 5)))
    (found,), refused = find_weights(list(model.graph))
    assert not refused
    assert [n.op_type for n in found.readers] == ["MatMul", "MatMul", "Gather"]
    assert len(found.products) == 2
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    h = x @ weights(w=(5, 5))["w"]
    grams = measure_grams(model, [found], Context(), [{"x": x, "i": np.zeros(2, np.int64)}])
    both = np.concatenate([x, h]).astype(np.float64)
    assert np.allclose(grams[found.value][0], both.T @ both / 8, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[5,5] x) => (float[5,5] y) { y = MatMul(w, x) }", "second operand is not a constant"),
        ("(float[N,5] x) => (float[N,5] y, float[5,5] z) { y = MatMul(x, w) z = Relu(w) }", "read by Relu"),
        ("(float[N,5] x) => (float[N,5] y) { h = MatMul(x, w) y = Gemm<transB=1>(h, w) }", "different sides"),
    ],
)  # fmt: skip
def test_refusals_say_why(text: str, reason: str) -> None:
    model = build(text, weights(w=(5, 5)))
    found, refused = find_weights(list(model.graph))
    assert not found
    assert any(reason in why for why in refused.values())


def test_data_that_are_not_finite_are_refused() -> None:
    model = build("(float[N,5] x) => (float[N,5] y) { y = MatMul(x, w) }", weights(w=(5, 5)))
    found, _ = find_weights(list(model.graph))
    with pytest.raises(CalibrationError, match="not finite"):
        measure_grams(model, found, Context(), [{"x": np.full((2, 5), np.inf, np.float32)}])
