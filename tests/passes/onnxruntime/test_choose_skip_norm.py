import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_skip_norm import ChooseSkipNorm

STEP = ChooseSkipNorm()
X = "float[N,M,8]"
LAYER = "LayerNormalization<epsilon=0.001>(s, w, b)"
RMS = "RMSNormalization(s, w)"
CONSTANTS = weights(w=(8,), b=(8,), c=(8,))


def text(norm: str, total: str, x: str = X, skip: str = X, extra: str = "") -> str:
    return f"({x} x, {skip} k) => ({x} y) {{ {total} y = {norm} {extra} }}"


@pytest.mark.parametrize("x", [X, "float[N,8]"])
@pytest.mark.parametrize(
    "total",
    ["s = Add(x, k)", "s = Add(k, x)", "h = Add(x, c) s = Add(h, k)", "h = Add(c, x) s = Add(k, h)"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("norm", "name"),
    [(LAYER, "SkipLayerNormalization"), (RMS, "SkipSimplifiedLayerNormalization")],
)
def test_a_skip_connection(norm: str, name: str, total: str, x: str) -> None:
    asked = chooses(build(text(norm, total, x, x), CONSTANTS, 23), STEP, [name])
    assert len(asked) == 1
    assert f"| {name}(" in asked[0]


@pytest.mark.parametrize("skip", ["float[1,M,8]", "float[M,8]"])
@pytest.mark.parametrize("total", ["s = Add(x, k)", "s = Add(k, x)"])
def test_a_skip_without_batch(total: str, skip: str) -> None:
    model = build(text(LAYER, total, skip=skip), CONSTANTS, 23)
    chooses(model, STEP, ["SkipLayerNormalization"])


def test_a_norm_without_shift() -> None:
    model = build(text("LayerNormalization(s, w)", "s = Add(x, k)"), CONSTANTS, 23)
    chooses(model, STEP, ["SkipLayerNormalization"])


@pytest.mark.parametrize("norm", [LAYER, RMS])
def test_readers_of_the_sum_before_the_norm(norm: str) -> None:
    source = f"""({X} x, {X} k) => ({X} y, {X} z, {X} s)
    {{ h = Add(x, c) s = Add(h, k) z = Neg(s) y = {norm} }}"""
    model = build(source, CONSTANTS, 23)
    name = "SkipLayerNormalization" if norm == LAYER else "SkipSimplifiedLayerNormalization"
    chooses(model, STEP, [name, "Neg"])


def test_a_biased_value_that_is_read_elsewhere_stays() -> None:
    source = f"({X} x, {X} k) => ({X} y, {X} h) {{ h = Add(x, c) s = Add(h, k) y = {LAYER} }}"
    chooses(build(source, CONSTANTS, 23), STEP, ["Add", "SkipLayerNormalization"])


def test_no_gain() -> None:
    keeps_without_gain(build(text(LAYER, "s = Add(x, k)"), CONSTANTS, 23), STEP)


WITH_MEAN = f"""({X} x, {X} k) => ({X} y, float[N,M,1] m)
{{ s = Add(x, k) y, m = LayerNormalization(s, w, b) }}"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text(LAYER, "s = Add(x, k)", "float[N,2,M,8]", "float[N,2,M,8]"), "has rank 4"),
        (text(LAYER, "s = Add(x, k)", skip="float[N,1,8]"), "is not broadcast to"),
        (f"(float[N,1,8] x, float[1,M,8] k) => ({X} y) {{ s = Add(x, k) y = {LAYER} }}", "neither"),
        (text("LayerNormalization<axis=1>(s, d, d)", "s = Add(x, k)", "float[N,3,8]", "float[N,3,8]"), "from axis 1"),
        (text("RMSNormalization(s, e)", "s = Add(x, k)"), "'e' has shape (1, 8)"),
        (text(LAYER, "s = Add(x, c)"), ""),
        (text("LayerNormalization(s, k)", "s = Add(x, w)", skip="float[8]"), "'scale' of LayerNormalization"),
        (WITH_MEAN, "mean or deviation"),
        ("(double[N,8] x, double[N,8] k) => (double[N,8] y) { s = Add(x, k) y = RMSNormalization(s, v) }", "DOUBLE"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    constants = {**CONSTANTS, **weights(d=(3, 8), e=(1, 8)), **weights(0, "float64", v=(8,))}
    keeps(build(source, constants, 23), STEP, reason)
