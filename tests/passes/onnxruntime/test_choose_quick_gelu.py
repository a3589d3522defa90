import numpy as np
import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_quick_gelu import ChooseQuickGelu

STEP = ChooseQuickGelu()
CONSTANTS = {"a": np.float32(1.702), "r": np.full((1, 1), 0.5, np.float32), **weights(w=(8,))}


def text(body: str) -> str:
    return f"(float[N,8] x) => (float[N,8] y) {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "g = Sigmoid(x) y = Mul(x, g)",
        "g = Sigmoid(x) y = Mul(g, x)",
        "t = Mul(x, a) g = Sigmoid(t) y = Mul(x, g)",
        "t = Mul(a, x) g = Sigmoid(t) y = Mul(g, x)",
        "t = Mul(x, r) g = Sigmoid(t) y = Mul(x, g)",
    ],
)
def test_it_is_chosen(body: str) -> None:
    asked = chooses(build(text(body), CONSTANTS), STEP, ["QuickGelu"])
    steep = "1.702" if "a" in body.replace("Sigmoid", "") else "0.5"
    assert f"alpha={steep if 't =' in body else '1'})" in asked[0]


def test_a_gate_of_another_value_is_a_product() -> None:
    body = "g = Sigmoid(x) h = Mul(x, g) u = Neg(x) y = Mul(h, u)"
    chooses(build(text(body), CONSTANTS), STEP, ["QuickGelu", "Neg", "Mul"])


def test_no_gain() -> None:
    keeps_without_gain(build(text("g = Sigmoid(x) y = Mul(x, g)"), CONSTANTS), STEP)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text("t = Mul(x, w) g = Sigmoid(t) y = Mul(x, g)"), "alpha has shape (8,)"),
        (text("u = Neg(x) g = Sigmoid(x) y = Mul(u, g)"), "is another value"),
        (
            "(float[N,8] x) => (float[N,8] y, float[N,8] g) { g = Sigmoid(x) y = Mul(x, g) }",
            "Sigmoid 'Sigmoid_0' is read elsewhere too",
        ),
        ("(double[N,8] x) => (double[N,8] y) { g = Sigmoid(x) y = Mul(x, g) }", "DOUBLE"),
        ("(float[8] x) => (float[1,8] y) { t = Mul(x, r) g = Sigmoid(t) y = Mul(x, g) }", "one number"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    keeps(build(source, CONSTANTS), STEP, reason)
