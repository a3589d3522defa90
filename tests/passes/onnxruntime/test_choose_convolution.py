import numpy as np
import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_convolution import ChooseConvolution

STEP = ChooseConvolution()
CONSTANTS = {
    **weights(w=(6, 4, 3, 3), b=(6,), w1=(6, 4, 3), one=(1,)),
    "low": np.float32(0),
    "high": np.float32(6),
}
CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b)"
ACTIVATIONS = [
    "Relu({})",
    "Sigmoid({})",
    "Tanh({})",
    "LeakyRelu({})",
    "LeakyRelu<alpha=0.2>({})",
    "HardSigmoid<alpha=0.3>({})",
    "Clip({}, low, high)",
    "Clip({}, low)",
    "Clip({})",
]


def text(body: str, y: str = "float[N,6,5,7]") -> str:
    return f"(float[N,4,5,7] x, {y} k) => ({y} y) {{ {body} }}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation(activation: str) -> None:
    model = build(text(f"{CONV} y = {activation.format('c')}"), CONSTANTS)
    chooses(model, STEP, ["FusedConv"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("total", ["s = Add(c, k)", "s = Add(k, c)"])
def test_a_residual(activation: str, total: str) -> None:
    model = build(text(f"{CONV} {total} y = {activation.format('s')}"), CONSTANTS)
    chooses(model, STEP, ["FusedConv"])


def test_a_residual_without_bias_in_one_dimension() -> None:
    source = """(float[N,4,7] x, float[N,6,3] k) => (float[N,6,3] y)
    { c = Conv<strides=[2]>(x, w1) s = Add(c, k) y = Relu(s) }"""
    asked = chooses(build(source, CONSTANTS), STEP, ["FusedConv"])
    assert "FusedConv(x0[2,4,7], w[6,4,3], _, x1[2,6,3], activation=Relu" in asked[0]


def test_no_gain() -> None:
    keeps_without_gain(build(text(f"{CONV} y = Relu(c)"), CONSTANTS), STEP)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text(f"{CONV} s = Add(c, one) y = Relu(s)"), "not the shape of the convolution"),
        (text(f"{CONV} y = Gelu(c)"), ""),
        (text(f"{CONV} y = Clip(c, l)").replace("k)", "k, float l)", 1), "'l' of Clip is not a constant"),
        (text(f"{CONV} y = Relu(c)").replace("] y)", "] y, float[N,6,5,7] c)"), "is read elsewhere"),
        (text("c = Conv(x, v) y = Relu(c)", "float[N,6,3,5]").replace("k)", "k, float[6,4,3,3] v)", 1), "'w' of Conv"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    model = build(source, CONSTANTS, 20)
    keeps(model, STEP, reason)
