import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_sum import ChooseSum

STEP = ChooseSum()
X = "float[N,M,8]"
CONSTANTS = weights(w=(8,), b=(8,), table=(1, 1, 8))


def text(body: str, outputs: str = f"{X} y") -> str:
    return f"({X} x, {X} k) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize("total", ["s = Add(x, k)", "s = Add(x, table)"])
@pytest.mark.parametrize(
    "norm", ["LayerNormalization<epsilon=0.1>(s, w, b)", "LayerNormalization(s, w)"]
)
def test_a_skip_connection(norm: str, total: str) -> None:
    asked = chooses(
        build(text(f"{total} y = {norm}"), CONSTANTS), STEP, ["Sum", "LayerNormalization"]
    )
    assert len(asked) == 1


def test_the_mean_may_be_read() -> None:
    body = "s = Add(x, k) y, m = LayerNormalization(s, w, b)"
    model = build(text(body, f"{X} y, float[N,M,1] m"), CONSTANTS)
    chooses(model, STEP, ["Sum", "LayerNormalization"])


def test_no_gain() -> None:
    body = "s = Add(x, k) y = LayerNormalization(s, w, b)"
    keeps_without_gain(build(text(body), CONSTANTS), STEP)


@pytest.mark.parametrize(
    "source",
    [
        text("s = Add(x, b) y = LayerNormalization(s, w, b)"),
        text("s = Add(x, k) y = LayerNormalization(s, w, b)", f"{X} y, {X} s"),
        text("s = Mul(x, k) y = LayerNormalization(s, w, b)"),
    ],
)
def test_what_the_runtime_does_not_fuse_is_no_place(source: str) -> None:
    keeps(build(source, CONSTANTS), STEP, "")
