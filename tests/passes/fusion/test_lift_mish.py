import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, run

from whet.passes.fusion.lift_mish import LiftMish

STEP = LiftMish()


def model_of(body: str, opset: int = 18, rank: int = 0) -> onnx_ir.Model:
    known = {"one": np.ones([1] * rank, "float32"), "two": np.float32(2), "twenty": np.float32(20)}
    known = {k: v for k, v in known.items() if f"{k})" in body}
    return build(f"(float[N,6] x) => (float[N,6] y) {{ {body} }}", known, opset=opset)


SPELLINGS = [
    "s = Softplus(x) t = Tanh(s) y = Mul(x, t)",
    "s = Softplus(x) t = Tanh(s) y = Mul(t, x)",
    "l = Greater(x, twenty) s = Softplus(x) w = Where(l, x, s) t = Tanh(w) y = Mul(x, t)",
    "e = Exp(x) a = Add(e, one) s = Log(a) t = Tanh(s) y = Mul(x, t)",
]


@pytest.mark.parametrize("body", SPELLINGS)
def test_spellings(body: str) -> None:
    coverage = folds(model_of(body), STEP, ["Mish"])
    assert coverage.proofs == {"float64": 1}


def test_declines() -> None:
    declines(model_of(SPELLINGS[0], opset=17), STEP, "opset 17 has no Mish")
    body = SPELLINGS[3].replace("one)", "two)")
    assert run(model_of(body), STEP).matched == 0
    low = SPELLINGS[2].replace("twenty)", "two)")
    assert run(model_of(low), STEP).matched == 0
    other = "z = Neg(x) s = Softplus(z) t = Tanh(s) y = Mul(x, t)"
    declines(model_of(other), STEP, "not multiplied by the softplus's input")
