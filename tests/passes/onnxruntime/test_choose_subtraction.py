import numpy as np
import onnx_ir
import pytest
from choosing import FASTER, chooses, keeps, keeps_without_gain
from folding import BINDINGS, build

from whet.passes.onnxruntime.choose_integer_product import ChooseIntegerProduct
from whet.passes.onnxruntime.choose_subtraction import ChooseSubtraction
from whet.passes.workbench import Context, Workbench

STEP = ChooseSubtraction()
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.integers(-127, 127, (16, 8)).astype(np.int8),
    "ws": RNG.uniform(0.01, 0.02, 8).astype(np.float32),
    "s": np.float32(0.02),
    "z": np.uint8(128),
    "b": RNG.standard_normal(8).astype(np.float32),
    "g": RNG.standard_normal(8).astype(np.float32),
}
DECODED = "a = DequantizeLinear(x, s, z) v = DequantizeLinear<axis=1>(w, ws)"
BIASED = f"{DECODED} m = MatMul(a, v) p = Add(m, b)"


def model(
    body: str, outputs: str = "float[N,M,8] y", skip: str = "float[N,M,8] k"
) -> onnx_ir.Model:
    """Return a model in which the runtime's own product stands."""
    made = build(f"(uint8[N,M,16] x, {skip}) => ({outputs}) {{ {body} }}", CONSTANTS, opset=20)
    step = ChooseIntegerProduct()
    step.apply(Workbench(made, step, Context(bindings=BINDINGS, prices=FASTER)))
    return made


@pytest.mark.parametrize("product", [BIASED, f"{DECODED} p = MatMul(a, v)"])
@pytest.mark.parametrize("total", ["s2 = Add(p, k)", "s2 = Add(k, p)"])
def test_the_product_changes_its_sign(product: str, total: str) -> None:
    body = f"{product} {total} y = LayerNormalization<epsilon=0.1>(s2, g, b)"
    chooses(model(body), STEP, ["MatMulIntegerToFloat", "Sub", "LayerNormalization"])


def test_the_integers_stay_and_the_scales_change_sign() -> None:
    made = model(f"{BIASED} s2 = Add(p, k) y = LayerNormalization(s2, g)")
    chooses(made, STEP, ["MatMulIntegerToFloat", "Sub", "LayerNormalization"])
    product = made.graph.node(0)
    np.testing.assert_array_equal(product.inputs[1].const_value.numpy(), CONSTANTS["w"])
    np.testing.assert_array_equal(product.inputs[3].const_value.numpy(), -CONSTANTS["ws"])


def test_no_gain() -> None:
    keeps_without_gain(model(f"{BIASED} s2 = Add(p, k) y = LayerNormalization(s2, g, b)"), STEP)


def test_a_sum_of_another_shape_stays() -> None:
    body = f"{BIASED} s2 = Add(p, k) y = LayerNormalization(s2, g, b)"
    keeps(model(body, skip="float[1,1,8] k"), STEP, "another shape than the product")


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{BIASED} s2 = Add(p, k) y = LayerNormalization(s2, g, b)", "float[N,M,8] y, float[N,M,8] s2"),
        (f"{BIASED} s2 = Add(p, k) y = LayerNormalization(s2, g, b)", "float[N,M,8] y, float[N,M,8] p"),
    ],
)  # fmt: skip
def test_what_others_read_stays(body: str, outputs: str) -> None:
    keeps(model(body, outputs), STEP, "is read elsewhere too")
