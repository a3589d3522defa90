import numpy as np
import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build

from whet.passes.onnxruntime.choose_integer_product import ChooseIntegerProduct

STEP = ChooseIntegerProduct()
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.integers(-127, 127, (8, 5)).astype(np.int8),
    "ws": RNG.uniform(0.01, 0.02, 5).astype(np.float32),
    "wz": np.zeros(5, np.int8),
    "s": np.float32(0.02),
    "z": np.uint8(128),
    "b": RNG.standard_normal(5).astype(np.float32),
    "square": RNG.integers(-127, 127, (5, 5)).astype(np.int8),
    "matrix": RNG.standard_normal((1, 5)).astype(np.float32),
    "odd": np.full(5, 3, np.int8),
    "xs": RNG.uniform(0.01, 0.02, 8).astype(np.float32),
    "xz": np.zeros(8, np.uint8),
}
DECODED = "a = DequantizeLinear(x, s, z) v = DequantizeLinear<axis=1>(w, ws, wz)"


def text(body: str, x: str = "uint8[N,M,8]") -> str:
    return f"({x} x) => (float[N,M,5] y) {{ {body} }}"


@pytest.mark.parametrize(
    "end", ["y = MatMul(a, v)", "p = MatMul(a, v) y = Add(p, b)", "p = MatMul(a, v) y = Add(b, p)"]
)
def test_a_product_of_integers(end: str) -> None:
    chooses(build(text(f"{DECODED} {end}"), CONSTANTS), STEP, ["MatMulIntegerToFloat"])


DYNAMIC = (
    "q, qs, qz = DynamicQuantizeLinear(f) i = MatMulInteger(q, w, qz) c = Cast<to=1>(i) "
    "k = Mul(qs, ws) p = Mul(c, k) h = Add(p, b) y = Gelu(h)"
)


def test_before_a_gelu_the_bias_goes_to_the_product() -> None:
    body = f"{DECODED} p = MatMul(a, v) h = Add(p, b) y = Gelu(h)"
    chooses(build(text(body), CONSTANTS, opset=20), STEP, ["MatMulIntegerToFloat", "Gelu"])


def test_before_a_gelu_also_with_a_grid_of_each_run() -> None:
    source = f"(float[N,M,8] f) => (float[N,M,5] y) {{ {DYNAMIC} }}"
    expected = ["DynamicQuantizeLinear", "MatMulIntegerToFloat", "Gelu"]
    chooses(build(source, CONSTANTS, opset=20), STEP, expected)


def test_zero_points_that_are_not_zero_are_kept() -> None:
    body = f"{DECODED.replace('wz', 'odd')} p = MatMul(a, v) y = Add(p, b)"
    model = build(text(body), CONSTANTS)
    chooses(model, STEP, ["MatMulIntegerToFloat"])
    assert model.graph.node(0).inputs[5] is not None


def test_an_activation_with_other_readers_is_still_decoded_for_them() -> None:
    source = f"(uint8[N,M,8] x) => (float[N,M,5] y, float[N,M,8] u) {{ {DECODED} y = MatMul(a, v) u = Neg(a) }}"
    chooses(build(source, CONSTANTS), STEP, ["DequantizeLinear", "MatMulIntegerToFloat", "Neg"])


def test_a_product_that_others_read_keeps_its_addition() -> None:
    source = f"(uint8[N,M,8] x) => (float[N,M,5] y, float[N,M,5] p) {{ {DECODED} p = MatMul(a, v) y = Add(p, b) }}"
    chooses(build(source, CONSTANTS), STEP, ["MatMulIntegerToFloat", "Add"])


def test_one_price_serves_every_scale() -> None:
    asked = [
        chooses(
            build(text(f"{DECODED} y = MatMul(a, v)"), {**CONSTANTS, "s": np.float32(scale)}),
            STEP,
            ["MatMulIntegerToFloat"],
        )[0]
        for scale in (0.02, 0.5)
    ]
    assert asked[0] == asked[1]


def test_no_gain() -> None:
    keeps_without_gain(build(text(f"{DECODED} y = MatMul(a, v)"), CONSTANTS), STEP)


ODD = "a = DequantizeLinear(x, s, z) v = DequantizeLinear<axis=0>(square, ws, wz)"
BY_CHANNEL = "a = DequantizeLinear<axis=2>(x, xs, xz) v = DequantizeLinear<axis=1>(w, ws, wz)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{ODD} h = MatMul(a, t) y = MatMul(h, v)", "does not feed MatMul"),
        (f"{BY_CHANNEL} y = MatMul(a, v)", "a scale per channel"),
    ],
)
def test_declines_say_why(body: str, reason: str) -> None:
    constants = {**CONSTANTS, "t": RNG.standard_normal((8, 5)).astype(np.float32)}
    keeps(build(text(body), constants), STEP, reason)
