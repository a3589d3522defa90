import numpy as np
import pytest
from choosing import FASTER, chooses, keeps, keeps_without_gain, run_priced
from folding import build, weights

from whet.ir.values import initializers
from whet.passes.fusion.merge_parallel_products import MergeParallelProducts

STEP = MergeParallelProducts()
CONSTANTS = weights(
    p=(4, 3), q=(4, 5), r=(4, 3), pt=(3, 4), qt=(5, 4), b=(3,), c=(5,), row=(1, 3), cube=(2, 4, 3)
)
X = "float[N,M,4] x"
PQ = "float[N,M,3] y, float[N,M,5] z"
PLAIN = "y = MatMul(x, p) z = MatMul(x, q)"
BIASED = "g = MatMul(x, p) y = Add(g, b) h = MatMul(x, q) z = Add(c, h)"


def text(body: str, outputs: str = PQ, x: str = X) -> str:
    return f"({x}) => ({outputs}) {{ {body} }}"


def matrix(body: str) -> str:
    return text(body, "float[N,3] y, float[N,5] z", "float[N,4] x")


def test_products_of_one_value() -> None:
    asked = chooses(build(text(PLAIN), CONSTANTS), STEP, ["MatMul", "Split"])
    plain = "MatMul(x0[2,3,4], w[4,3]) MatMul(x0[2,3,4], w[4,5]) -> %0, %1"
    assert asked == [
        f"{plain} | MatMul(x0[2,3,4], w[4,8]) Split(%0, w:int64[2], axis=-1) -> %1, %2"
    ]


def test_a_bias_each() -> None:
    chooses(build(text(BIASED), CONSTANTS), STEP, ["MatMul", "Add", "Split"])


def test_a_missing_bias_is_zero() -> None:
    model = build(
        text(BIASED.replace("h = MatMul(x, q) z = Add(c, h)", "z = MatMul(x, q)")), CONSTANTS
    )
    chooses(model, STEP, ["MatMul", "Add", "Split"])
    assert [v.const_value.numpy()[3:].any() for v in initializers(model) if v.shape == (8,)] == [
        False
    ]


def test_three_with_what_reads_them_in_between() -> None:
    body = "g = MatMul(x, p) y = Relu(g) z = MatMul(x, q) h = MatMul(x, r) u = Mul(h, y)"
    outputs = f"{PQ}, float[N,M,3] u"
    chooses(build(text(body, outputs), CONSTANTS), STEP, ["MatMul", "Split", "Relu", "Mul"])


def test_a_product_that_is_read_before_its_bias_keeps_the_addition() -> None:
    body = "g = MatMul(x, p) y = Add(g, b) z = MatMul(x, q) u = Neg(g)"
    model = build(text(body, f"{PQ}, float[N,M,3] u"), CONSTANTS)
    chooses(model, STEP, ["MatMul", "Split", "Add", "Neg"])


def test_an_addition_of_another_shape_stays() -> None:
    body = "g = MatMul(x, p) y = Add(g, row) z = MatMul(x, q)"
    chooses(build(text(body), CONSTANTS), STEP, ["MatMul", "Split", "Add"])


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm(x, p) z = Gemm(x, q)",
        "y = Gemm<alpha=0.5, beta=2.0>(x, p, b) z = Gemm<alpha=0.5, beta=2.0>(x, q, c)",
        "y = Gemm<transB=1>(x, pt, row) z = Gemm<transB=1>(x, qt, c)",
        "y = Gemm<transB=1>(x, pt) z = Gemm<transB=1>(x, qt, c)",
    ],
)
def test_gemm(body: str) -> None:
    chooses(build(matrix(body), CONSTANTS), STEP, ["Gemm", "Split"])


def test_old_weights_leave() -> None:
    model = build(text(BIASED), CONSTANTS)
    run_priced(model, STEP, FASTER)
    shapes = sorted(tuple(v.shape.numpy()) for v in initializers(model) if v.uses())
    assert shapes == [(2,), (4, 8), (8,)]
    assert not {"p", "q", "b", "c"} & {v.name for v in initializers(model)}


def test_no_gain() -> None:
    keeps_without_gain(build(text(PLAIN), CONSTANTS), STEP)


def test_the_others_are_merged_where_one_weight_is_shared() -> None:
    body = f"{PLAIN} u = MatMul(x, r) v = Relu(p)"
    model = build(text(body, f"{PQ}, float[N,M,3] u, float[4,3] v"), CONSTANTS)
    chooses(model, STEP, ["MatMul", "MatMul", "Split", "Relu"])


CUBE = """(float[2,2,4] x) => (float[2,2,3] y, float[2,2,3] z)
{ y = MatMul(x, cube) z = MatMul(x, cube) }"""
PAIR = "float[N,3] y, float[N,5] z"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text(f"{PLAIN} u = Relu(p)", f"{PQ}, float[4,3] u"), "'p' has other readers"),
        (CUBE, "is no matrix"),
        (text("y = Gemm<transA=1>(x, p) z = Gemm<transA=1>(x, q)", PAIR, "float[4,N] x"), "is transposed"),
        (text("y = Gemm(x, p, a) z = Gemm(x, q)", PAIR, "float[N,4] x, float[3] a"), "'a' is not a constant vector"),
        (matrix("y = Gemm<alpha=0.5>(x, p) z = Gemm(x, q)"), ""),
        (text("h = Neg(x) y = MatMul(x, p) z = MatMul(h, q)"), ""),
        (text("y = MatMul(x, p) z = MatMul(x, a)", x=f"{X}, float[4,5] a"), ""),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    keeps(build(source, CONSTANTS), STEP, reason)


def test_an_old_opset() -> None:
    keeps(build(text(PLAIN), CONSTANTS, 11), STEP, "opset 11 has no Split")


def test_float64_weights_are_merged_as_they_are() -> None:
    constants = {name: array.astype(np.float64) for name, array in CONSTANTS.items()}
    source = text(PLAIN).replace("float", "double")
    chooses(build(source, constants), STEP, ["MatMul", "Split"])
