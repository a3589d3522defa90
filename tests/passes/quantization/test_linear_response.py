import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, weights

from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.passes.base import Pass
from whet.passes.quantization.linear_response import find_product, response
from whet.passes.quantization.quantize_dynamic import QuantizeDynamic
from whet.passes.quantization.quantize_static import QuantizeStatic
from whet.passes.quantization.quantize_weights import QuantizeWeights
from whet.passes.workbench import Context, Workbench

TEXT = "(float[N,16] x) => (float[N,12] y) { c = Gemm(x, w, b) y = Relu(c) }"
CONSTANTS = weights(w=(16, 12), b=(12,))
STEPS = (
    QuantizeWeights(bits="4", minimum=1),
    QuantizeDynamic(minimum=1, prefer="size"),
    QuantizeStatic(prefer="size", weights="int7"),
)


def rewritten(step: Pass) -> onnx_ir.Model:
    model = build(TEXT, CONSTANTS, opset=21)
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    step.apply(Workbench(model, step, Context(bindings=BINDINGS, calibration=({"x": x},))))
    return model


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_the_matrix_is_read_off(step: Pass) -> None:
    model = rewritten(step)
    product = find_product(model.graph.outputs[0])
    matrix, added = response(model, product, 16)
    assert 0 < np.abs(matrix - CONSTANTS["w"].T).max() < 0.3
    x = np.eye(16, dtype=np.float32)
    (y,) = Executor(onnx_ir.to_proto(model)).run({"x": x})
    bias = CONSTANTS["b"] if product.node.op_type != "Gemm" else added
    near = np.maximum(matrix.T + bias, 0)
    tolerance = 0.1 if isinstance(step, QuantizeStatic) else 0.02
    np.testing.assert_allclose(y, near, atol=tolerance)


def test_what_is_no_product_says_so() -> None:
    for text, reason in (
        ("(float[N,4] x) => (float[N,4] y) { y = Softmax(x) }", "Softmax, no product"),
        ("(float[N,4] x) => (float[N,4] y) { a = Sqrt(x) y = Add(a, x) }", "a sum of two values"),
        ("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", "no product stands for it"),
    ):
        with pytest.raises(Mismatch, match=reason):
            find_product(build(text).graph.outputs[0])


def test_another_value_in_the_product_is_refused() -> None:
    model = build("(float[N,4] x, float[4,4] v) => (float[N,4] y) { y = MatMul(x, v) }")
    with pytest.raises(Mismatch, match="'v', which is no constant"):
        response(model, find_product(model.graph.outputs[0]), 4)
