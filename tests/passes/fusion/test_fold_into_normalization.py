import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, run, weights

from whet.passes.fusion.fold_into_normalization import FoldIntoNormalization

STEP = FoldIntoNormalization()


def model_of(body: str, kind: str = "float", **arrays: object) -> onnx_ir.Model:
    text = f"({kind}[N,4,6] x) => ({kind}[N,4,6] y) {{ {body} }}"
    dtype = {"float": "float32"}.get(kind, kind)
    constants = weights(dtype=dtype, s=(6,), b=(6,), c=(6,))
    constants |= {k: np.asarray(v) for k, v in arrays.items()}
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return build(text, {k: v for k, v in constants.items() if k in read}, opset=23)


BEHIND = {
    "mul": "z = LayerNormalization(x, s, b) y = Mul(z, c)",
    "mul-left": "z = LayerNormalization<epsilon=0.1>(x, s, b) y = Mul(c, z)",
    "div": "z = LayerNormalization(x, s, b) y = Div(z, c)",
    "add": "z = LayerNormalization(x, s, b) y = Add(c, z)",
    "sub": "z = LayerNormalization(x, s, b) y = Sub(z, c)",
    "first-bias": "z = LayerNormalization(x, s) y = Add(z, c)",
    "no-bias": "z = LayerNormalization(x, s) y = Mul(z, c)",
    "negative": "z = LayerNormalization(x, s) y = Sub(z, c)",
}


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (1,), ()], ids=str)
@pytest.mark.parametrize("name", BEHIND)
def test_affine_behind(name: str, shape: tuple[int, ...]) -> None:
    c = weights(c=shape)["c"] + 2
    coverage = folds(model_of(BEHIND[name], c=c), STEP, ["LayerNormalization"])
    assert coverage.proofs == {"float64": 1}


def test_affine_twice_and_over_two_axes() -> None:
    body = "z = LayerNormalization<axis=1>(x, s, b) u = Mul(z, c) y = Add(u, d)"
    model = model_of(body, **weights(s=(4, 6), b=(4, 6), c=(4, 1), d=(1, 4, 6)))
    folds(model, STEP, ["LayerNormalization"])


@pytest.mark.parametrize("how", ["Mul(z, c)", "Mul(c, z)", "Div(z, c)"])
def test_rms(how: str) -> None:
    folds(model_of(f"z = RMSNormalization(x, s) y = {how}"), STEP, ["RMSNormalization"])


@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization"])
def test_casts_and_scale_behind(kind: str) -> None:
    body = f"w = Cast<to=1>(x) z = {kind}(w, s) v = Cast<to=10>(z) y = Mul(v, c)"
    model = model_of(body, "float16", s=np.ones(6, "float32"))
    coverage = run(model, STEP)
    assert coverage.changed == 2
    assert coverage.proofs == {"float64": 2}
    assert [n.op_type for n in model.graph] == [kind]
    assert model.graph[0].inputs[1].dtype == onnx_ir.DataType.FLOAT16


def test_declines_constants_elsewhere() -> None:
    body = "z = LayerNormalization(x, s) y = Mul(z, c)"
    declines(model_of(body, **weights(c=(4, 1))), STEP, "does not lie along the normalized axes")
    body = "z = LayerNormalization(x, s) y = Add(z, c)"
    declines(model_of(body, **weights(c=(4, 6))), STEP, "does not lie along the normalized axes")


def test_declines_growth() -> None:
    text = "(float[N,6] x) => (float[1,N,6] y) { z = LayerNormalization(x, s) y = Mul(z, c) }"
    declines(build(text, weights(s=(6,), c=(1, 1, 6)), opset=23), STEP, "does not lie along")


def test_declines_other_readers() -> None:
    text = """(float[N,6] x) => (float[N,6] y, float[N,6] z)
    { z = LayerNormalization(x, s) y = Mul(z, c) }"""
    declines(build(text, weights(s=(6,), c=(6,)), opset=23), STEP, "is read elsewhere")
    text = """(float[N,6] x) => (float[N,6] y, float[N,1] m)
    { z, m = LayerNormalization(x, s) y = Mul(z, c) }"""
    model = build(text, weights(s=(6,), c=(6,)), opset=23)
    declines(model, STEP, "its mean or deviation is read too")


def test_declines_zero_divisor_and_rounding() -> None:
    body = "z = LayerNormalization(x, s) y = Div(z, c)"
    declines(model_of(body, c=np.zeros(6, "float32")), STEP, "zero where it divides")
    body = "z = LayerNormalization(x, s) y = Mul(z, c)"
    declines(model_of(body, "float16"), STEP, "does not fit float16 without rounding")


def test_rms_has_no_bias() -> None:
    model = model_of("z = RMSNormalization(x, s) y = Add(z, c)")
    before = [n.op_type for n in model.graph]
    assert run(model, STEP).changed == 0
    assert [n.op_type for n in model.graph] == before
