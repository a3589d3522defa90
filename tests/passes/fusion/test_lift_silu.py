import numpy as np
import onnx_ir
import pytest
from folding import build, folds, ops, run

from whet.passes.fusion.lift_silu import LiftSilu

STEP = LiftSilu()


def model_of(body: str, opset: int = 23) -> onnx_ir.Model:
    known = {"c": np.float32(1.702)} if ", c)" in body or "(c," in body else {}
    return build(f"(float[N,6] x) => (float[N,6] y) {{ {body} }}", known, opset=opset)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("s = Sigmoid(x) y = Mul(s, x)", 2),
        ("u = Mul(x, c) s = Sigmoid(u) y = Mul(s, x)", 3),
        ("u = Mul(c, x) s = Sigmoid(u) y = Mul(x, s)", 3),
        ("u = Mul(c, x) s = Sigmoid(u) y = Mul(s, x)", 3),
    ],
)
def test_one_spelling(body: str, count: int) -> None:
    model = model_of(body)
    folds(model, STEP, ["Mul", "Sigmoid", "Mul"][3 - count :])
    names = [[v.name for v in node.inputs] for node in model.graph]
    assert names[-1][0] == "x"
    if count == 3:
        assert names[0] == ["x", "c"]


@pytest.mark.parametrize(("alpha", "count"), [("", 2), ("<alpha=1.5>", 3)])
def test_swish(alpha: str, count: int) -> None:
    model = model_of(f"y = Swish{alpha}(x)", opset=24)
    coverage = run(model, STEP)
    assert (coverage.changed, coverage.failures) == (1, []), coverage
    assert ops(model) == ["Mul", "Sigmoid", "Mul"][3 - count :]
    assert run(model, STEP).changed == 0


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x) y = Mul(x, s)",
        "u = Mul(x, c) s = Sigmoid(u) y = Mul(x, s)",
        "z = Relu(x) s = Sigmoid(x) y = Mul(s, z)",
    ],
)
def test_others_stay(body: str) -> None:
    model = model_of(body)
    before = ops(model)
    assert run(model, STEP).changed == 0
    assert ops(model) == before
