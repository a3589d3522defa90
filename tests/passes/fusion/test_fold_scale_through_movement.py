import numpy as np
import pytest
from folding import build, declines, folds, ops, run, weights

from whet.passes.fusion.fold_scale_through_movement import FoldScaleThroughMovement

STEP = FoldScaleThroughMovement()
CONSTANTS = {
    **weights(w=(4, 6), wt=(6, 4), b=(6,), k=(6, 4, 3, 3), vector=(3,)),
    "s": np.float32(0.25),
    "one": np.full((1,), 0.25, np.float32),
    "cube": np.full((1, 1, 1, 1, 1), 0.25, np.float32),
    "zero": np.float32(0),
    "heads": np.array([0, 0, 2, 3]),
    "sizes": np.array([2, 4]),
    "flat": np.array([-1]),
}
X, HEADS = "float[N,M,4] x", "float[N,2,M,3] y"
MOVE = "r = Reshape(a, heads) t = Transpose<perm=[0,2,1,3]>(r)"
BIASED = f"p = MatMul(x, w) a = Add(p, b) {MOVE}"


def text(body: str, outputs: str = HEADS, x: str = X) -> str:
    return f"({x}) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize(
    "how", ["Mul(t, s)", "Mul(s, t)", "Mul(one, t)", "Div(t, s)", "Div(t, one)"]
)
def test_heads(how: str) -> None:
    model = build(text(f"{BIASED} y = {how}"), CONSTANTS)
    coverage = folds(model, STEP, ["MatMul", "Add", "Reshape", "Transpose"])
    assert coverage.proofs == {"float64": 1}


def test_without_a_bias() -> None:
    model = build(text(f"a = MatMul(x, w) {MOVE} y = Mul(t, s)"), CONSTANTS)
    folds(model, STEP, ["MatMul", "Reshape", "Transpose"])


@pytest.mark.parametrize("gemm", ["Gemm(x, w, b)", "Gemm<transB=1, alpha=2.0>(x, wt, b)"])
def test_gemm(gemm: str) -> None:
    model = build(
        text(f"a = {gemm} r = Reshape(a, flat) y = Mul(r, s)", "float[K] y", "float[N,4] x"),
        CONSTANTS,
    )
    folds(model, STEP, ["Gemm", "Reshape"])


def test_a_shape_that_is_computed_behind_the_product() -> None:
    body = "a = MatMul(x, w) h = Shape(z) r = Reshape(a, h) y = Mul(r, s)"
    model = build(text(body, "float[N,6] y", "float[N,4] x, float[N,6] z"), CONSTANTS)
    folds(model, STEP, ["Shape", "MatMul", "Reshape"])


@pytest.mark.parametrize("part", [0, 1])
def test_one_part_of_a_split(part: int) -> None:
    first, second = ("q", "o") if part == 0 else ("o", "q")
    body = f"""p = MatMul(x, w) a = Add(p, b) {first}, {second} = Split<axis=-1>(a, sizes)
    z = Neg(o) t = Transpose<perm=[1,0,2]>(q) y = Mul(t, s)"""
    outputs = f"float[M,N,{(2, 4)[part]}] y, float[N,M,{(4, 2)[part]}] z"
    expected = ["MatMul", "Add", "Split", "Transpose", "Neg"]
    folds(build(text(body, outputs), CONSTANTS), STEP, expected)


def test_every_part_of_an_even_split() -> None:
    body = "a = MatMul(x, w) q, o = Split<axis=2, num_outputs=2>(a) y = Mul(q, s) z = Div(o, s)"
    model = build(text(body, "float[N,M,3] y, float[N,M,3] z"), CONSTANTS)
    folds(model, STEP, ["MatMul", "Split"])


def test_convolution() -> None:
    body = "a = Conv(x, k) t = Transpose<perm=[0,2,3,1]>(a) y = Mul(t, s)"
    model = build(text(body, "float[N,3,4,6] y", "float[N,4,5,6] x"), CONSTANTS)
    folds(model, STEP, ["Conv", "Transpose"])


ROWS = "q, o = Split<axis=1>(a, sizes) z = Neg(o)"
TURNED = ("float[N,2,6] y, float[N,4,6] z", "float[N,6,4] x")
SPLIT = "q, o = Split<axis=-1>(a, sizes) z = Neg(o) r = Reshape(q, h)"
COMPUTED = ("float[N,2] y, float[N,4] z", "float[N,4] x, float[N,2] v")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text(f"{BIASED} y = Div(t, zero)"), "zero where it divides"),
        (text(f"{BIASED} y = Mul(t, cube)", "float[1,N,2,M,3] y"), "the number has rank 5"),
        (text(f"{BIASED} y = Mul(t, s) z = Neg(w)", f"{HEADS}, float[4,6] z"), "is shared"),
        (text(f"a = MatMul(x, w) {ROWS} y = Mul(q, s)", *TURNED), "not along the channels"),
        (text(f"h = Shape(v) a = MatMul(x, w) {SPLIT} y = Mul(r, s)", *COMPUTED), "is computed"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    declines(build(source, CONSTANTS), STEP, reason)


@pytest.mark.parametrize(
    "source",
    [
        text("p = MatMul(x, w) y = Mul(p, s)", "float[N,M,6] y"),
        text(f"{BIASED} y = Mul(t, vector)"),
        text(f"{BIASED} y = Div(s, t)"),
        text(f"{BIASED} y = Mul(t, s)", f"{HEADS}, float[N,2,M,3] t"),
        text(f"p = MatMul(x, w) a = Sigmoid(p) {MOVE} y = Mul(t, s)"),
    ],
)
def test_what_is_no_place(source: str) -> None:
    model = build(source, CONSTANTS)
    before = ops(model)
    coverage = run(model, STEP)
    assert (coverage.matched, coverage.changed) == (0, 0)
    assert ops(model) == before
