import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds

from whet.passes.fusion.lift_hard_swish import LiftHardSwish

STEP = LiftHardSwish()
CLIP = "a = Add(x, three) c = Clip(a, zero, six)"
SPELLINGS = {
    "hard-sigmoid": "h = HardSigmoid<alpha=0.16666667>(x) y = Mul(h, x)",
    "div-first": f"{CLIP} d = Div(c, six) y = Mul(x, d)",
    "mul-first": f"{CLIP} d = Mul(c, sixth) y = Mul(d, x)",
    "div-last": f"{CLIP} p = Mul(x, c) y = Div(p, six)",
    "mul-last": f"{CLIP} p = Mul(x, c) y = Mul(p, sixth)",
    "div-input": f"d = Div(x, six) {CLIP} y = Mul(d, c)",
    "mul-input": f"d = Mul(sixth, x) {CLIP} y = Mul(c, d)",
}


def model_of(body: str, opset: int = 20, **other: float) -> onnx_ir.Model:
    numbers = {"zero": 0.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6, **other}
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {k: np.float32(v) for k, v in numbers.items() if k in read}
    return build(f"(float[N,6] x) => (float[N,6] y) {{ {body} }}", known, opset=opset)


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str) -> None:
    coverage = folds(model_of(SPELLINGS[name]), STEP, ["HardSwish"])
    assert coverage.proofs == {"float64": 1}


def test_declines() -> None:
    body = "h = HardSigmoid(x) y = Mul(h, x)"
    declines(model_of(body), STEP, "HardSigmoid has slope 0.2 and offset 0.5")
    body = SPELLINGS["div-last"]
    declines(model_of(body, three=2.0), STEP, "clips x + [2.0] to [0.0, 6.0]")
    declines(model_of(body, opset=13), STEP, "opset 13 has no HardSwish")
