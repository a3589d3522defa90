import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_bias_gelu import ChooseBiasGelu

STEP = ChooseBiasGelu()
TANH = 'Gelu<approximate="tanh">'
CONSTANTS = weights(b=(8,), c=(1, 8), one=())


def text(body: str, x: str = "float[N,M,8]") -> str:
    return f"({x} x) => ({x} y) {{ {body} }}"


@pytest.mark.parametrize("x", ["float[N,M,8]", "float[N,8]", "float[N,2,M,8]"])
@pytest.mark.parametrize("add", ["Add(x, b)", "Add(b, x)"])
@pytest.mark.parametrize(("gelu", "name"), [("Gelu", "BiasGelu"), (TANH, "FastGelu")])
def test_a_bias(gelu: str, name: str, add: str, x: str) -> None:
    chooses(build(text(f"s = {add} y = {gelu}(s)", x), CONSTANTS, 23), STEP, [name])


def test_tanh_without_a_bias() -> None:
    chooses(build(text(f"y = {TANH}(x)"), CONSTANTS, 23), STEP, ["FastGelu"])


def test_a_bias_that_does_not_fit_stays_beside_the_operator() -> None:
    chooses(build(text(f"s = Add(x, c) y = {TANH}(s)"), CONSTANTS, 23), STEP, ["Add", "FastGelu"])


def test_no_gain() -> None:
    keeps_without_gain(build(text("s = Add(x, b) y = Gelu(s)"), CONSTANTS, 23), STEP)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text("s = Add(x, c) y = Gelu(s)"), "'c' has shape (1, 8), not (8,)"),
        (text("s = Add(x, one) y = Gelu(s)"), "not (8,)"),
        (text("y = Gelu(x)"), ""),
        (f"(float16[N,8] x) => (float16[N,8] y) {{ y = {TANH}(x) }}", "FLOAT16"),
        ("(float[N,8] x) => (float[N,8] y, float[N,8] s) { s = Add(x, b) y = Gelu(s) }", ""),
    ],
)
def test_declines_say_why(source: str, reason: str) -> None:
    keeps(build(source, CONSTANTS, 23), STEP, reason)
