import numpy as np
import onnx_ir
import pytest
from folding import build, folds, ops, run

from whet.passes.fusion.lift_sigmoid import LiftSigmoid

STEP = LiftSigmoid()
CONSTANTS = {
    "one": np.float32(1),
    "two": np.float32(2),
    "ones": np.ones((1, 1, 1), "float32"),
    "minus": np.float32(-1),
    "c": np.float32(-1.702),
}


def model_of(body: str) -> onnx_ir.Model:
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {k: v for k, v in CONSTANTS.items() if k in read}
    return build(f"(float[N,6] x) => (float[N,6] y) {{ {body} }}", known)


SPELLINGS = {
    "logistic": ("u = Neg(x) e = Exp(u) d = Add(e, one) y = Div(one, d)", ["Sigmoid"]),
    "reciprocal": ("u = Mul(x, minus) e = Exp(u) d = Add(one, e) y = Reciprocal(d)", ["Sigmoid"]),
    "silu": ("u = Neg(x) e = Exp(u) d = Add(one, e) y = Div(x, d)", ["Sigmoid", "Mul"]),
    "quick": ("u = Mul(c, x) e = Exp(u) d = Add(e, one) y = Div(x, d)", ["Mul", "Sigmoid", "Mul"]),
    "falling": ("e = Exp(x) d = Add(e, one) y = Div(one, d)", ["Neg", "Sigmoid"]),
    "ratio": ("e = Exp(x) d = Add(e, one) y = Div(e, d)", ["Sigmoid"]),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str) -> None:
    body, expected = SPELLINGS[name]
    coverage = folds(model_of(body), STEP, expected)
    assert coverage.proofs == {"float64": 1}


@pytest.mark.parametrize(
    "body",
    ["e = Exp(x) d = Add(e, two) y = Div(one, d)", "e = Exp(x) d = Sub(e, one) y = Div(one, d)"],
)
def test_others_are_no_match(body: str) -> None:
    model = model_of(body)
    before = ops(model)
    assert run(model, STEP).matched == 0
    assert ops(model) == before


def test_declines_growth() -> None:
    text = "(float[N,6] x) => (float[1,N,6] y) { e = Exp(x) d = Add(e, ones) y = Reciprocal(d) }"
    coverage = run(build(text, {"ones": CONSTANTS["ones"]}), STEP)
    assert coverage.changed == 0
    assert "less than that of the one" in next(iter(coverage.declined.values()))
