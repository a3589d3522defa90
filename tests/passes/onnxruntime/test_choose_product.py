import numpy as np
import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_product import ChooseProduct

STEP = ChooseProduct()
CONSTANTS = {"a": np.float32(0.25), "z": np.float32(0), "e": np.ones((1, 1, 1, 1), np.float32)}
Q, K, Y = "float[N,2,M,8]", "float[N,2,5,8]", "float[N,2,M,5]"
TURN = "Transpose<perm=[0,1,3,2]>"


def text(body: str, q: str = Q, k: str = K, y: str = Y) -> str:
    return f"({q} q, {k} k) => ({y} y) {{ {body} }}"


def test_a_transposed_right_side() -> None:
    model = build(text(f"t = {TURN}(k) y = MatMul(q, t)"), CONSTANTS)
    chooses(model, STEP, ["FusedMatMul"])


def test_a_transposed_left_side() -> None:
    source = text(f"t = {TURN}(q) y = MatMul(t, k)", "float[N,2,8,M]", "float[N,2,8,5]")
    chooses(build(source, CONSTANTS), STEP, ["FusedMatMul"])


@pytest.mark.parametrize("scale", ["Mul(p, a)", "Mul(a, p)", "Div(p, a)"])
def test_a_scaled_product_is_one_operator(scale: str) -> None:
    model = build(text(f"t = {TURN}(k) p = MatMul(q, t) y = {scale}"), CONSTANTS)
    asked = chooses(model, STEP, ["FusedMatMul"])
    assert f"alpha={4 if 'Div' in scale else 0.25}, transA=0, transB=1)" in asked[0]


def test_a_transpose_with_other_readers_is_measured_as_staying() -> None:
    source = f"({Q} q, {K} k) => ({Y} y, float[N,2,8,5] u) {{ t = {TURN}(k) y = MatMul(q, t) u = Neg(t) }}"
    model = build(source, CONSTANTS)
    asked = chooses(model, STEP, ["Transpose", "FusedMatMul", "Neg"])
    plain, other = asked[0].split(" | ")
    assert plain.count("Transpose") == other.count("Transpose") == 1


def test_no_gain() -> None:
    keeps_without_gain(build(text(f"t = {TURN}(k) y = MatMul(q, t)"), CONSTANTS), STEP)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text("t = Transpose<perm=[0,3,2,1]>(k) y = MatMul(q, t)", k="float[N,5,8,2]"), ""),
        (text("y = MatMul(q, k)", k="float[N,2,8,5]"), ""),
        (text("p = MatMul(q, k) y = Mul(p, s)", k="float[N,2,8,5]"), "constant of shape (5,)"),
        (text("p = MatMul(q, k) y = Mul(p, e)", k="float[N,2,8,5]"), "constant of shape (1, 1, 1, 1)"),
        (text("p = MatMul(q, k) y = Div(p, z)", k="float[N,2,8,5]"), "divided by zero"),
        (text("t = Transpose<perm=[1,0]>(k) y = MatMul(q, t)", "float[8]", "float[5,8]", "float[5]"), "is a vector"),
        (text(f"t = {TURN}(k) y = MatMul(q, t)").replace("float", "double"), "DOUBLE"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    keeps(build(source, {**CONSTANTS, **weights(s=(5,))}), STEP, reason)
