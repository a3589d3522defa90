import numpy as np
import pytest
from folding import build, declines, folds

from whet.passes.attention.lift_softmax import LiftSoftmax

STEP = LiftSoftmax()
AXES = {"a": np.int64([-1]), "b": np.int64([1]), "both": np.int64([1, 2])}
HEAD = "(float[N,4,M] x) => (float[N,4,M] y)"


def read(body: str, opset: int = 23):
    used = {name: axes for name, axes in AXES.items() if f", {name})" in body}
    return build(f"{HEAD} {{ {body} }}", used, opset)


SPELLINGS = {
    "plain": "e = Exp(x) s = ReduceSum(e, a) y = Div(e, s)",
    "shifted": "m = ReduceMax(x, a) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, a) y = Div(e, s)",
    "reciprocal": "e = Exp(x) s = ReduceSum(e, a) r = Reciprocal(s) y = Mul(r, e)",
    "middle-axis": "m = ReduceMax(x, b) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, b) y = Div(e, s)",
    "shifted-by-all": "m = ReduceMax(x) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, a) y = Div(e, s)",
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_softmax(case: str) -> None:
    model = read(SPELLINGS[case])
    folds(model, STEP, ["Softmax"])
    assert model.graph[0].attributes["axis"].as_int() == (1 if "b)" in SPELLINGS[case] else 2)
    assert model.graph[0].inputs[0] is model.graph.inputs[0]


def test_another_maximum_stays() -> None:
    body = "m = ReduceMax(x, b) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, a) y = Div(e, s)"
    folds(read(body), STEP, ["ReduceMax", "Sub", "Softmax"])


LEFT = {
    "two-axes": ("e = Exp(x) s = ReduceSum(e, both) y = Div(e, s)", 23, "not over one axis"),
    "all-axes": ("e = Exp(x) s = ReduceSum(e) y = Div(e, s)", 23, "not over one axis"),
    "old": ("e = Exp(x) s = ReduceSum<axes=[2]>(e) y = Div(e, s)", 11, "over several axes"),
}


@pytest.mark.parametrize("case", LEFT)
def test_reasons(case: str) -> None:
    body, opset, reason = LEFT[case]
    declines(read(body, opset), STEP, reason)


def test_other_numbers_divided_by_their_sum() -> None:
    model = read("e = Sigmoid(x) s = ReduceSum(e, a) y = Div(e, s)")
    with pytest.raises(AssertionError):
        folds(model, STEP, ["Softmax"])
