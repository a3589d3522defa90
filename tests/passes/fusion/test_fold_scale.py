import numpy as np
import pytest
from folding import build, declines, folds, weights

from whet.passes.fusion.fold_scale import FoldScale

STEP = FoldScale()

BEHIND = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", "N,3,8,8", "N,4,8,8", (4, 3, 3, 3), (4, 1, 1)),
    "conv-one": ("Conv(x, w, b)", "N,3,8,8", "N,4,6,6", (4, 3, 3, 3), (1, 1, 1, 1)),
    "grouped": ("Conv<group=2>(x, w)", "N,4,8,8", "N,6,6,6", (6, 2, 3, 3), (1, 6, 1, 1)),
    "transposed": (
        "ConvTranspose<group=2>(x, w)",
        "N,4,5,5",
        "N,6,7,7",
        (4, 3, 3, 3),
        (6, 1, 1),
    ),
    "gemm": ("Gemm<alpha=2.0, beta=0.5>(x, w, b)", "N,3", "N,4", (3, 4), (4,)),
    "gemm-row": ("Gemm<transB=1>(x, w, b)", "N,3", "N,4", (4, 3), (1, 4)),
    "matmul": ("MatMul(x, w)", "N,M,3", "N,M,4", (3, 4), (4,)),
    "matmul-left": ("MatMul(w, x)", "N,3,5", "N,4,5", (4, 3), (4, 1)),
    "matmul-scalar": ("MatMul(x, w)", "N,M,3", "N,M,4", (3, 4), ()),
}


@pytest.mark.parametrize("how", ["Mul(z, c)", "Mul(c, z)", "Div(z, c)"])
@pytest.mark.parametrize("case", BEHIND)
def test_behind(case: str, how: str) -> None:
    linear, x, y, shape, scale = BEHIND[case]
    constants = weights(w=shape, vc=scale, b=(4,))
    constants["c"] = constants.pop("vc")
    model = build(f"(float[{x}] x) => (float[{y}] y) {{ z = {linear} y = {how} }}", constants)
    coverage = folds(model, STEP, [model.graph[0].op_type])
    assert coverage.proofs == {"float64": 1}


def test_behind_matmul_with_bias() -> None:
    text = """(float[N,M,3] x) => (float[N,M,4] y)
    { p = MatMul(x, w) z = Add(p, b) y = Mul(z, c) }"""
    folds(build(text, weights(w=(3, 4), b=(4,), c=(4,))), STEP, ["MatMul", "Add"])


BEFORE = {
    "padded-conv": (
        "Conv<pads=[1,1,1,1]>(z, w, b)",
        "N,3,8,8",
        "N,4,8,8",
        (4, 3, 3, 3),
        (3, 1, 1),
    ),
    "grouped": ("Conv<group=2>(z, w)", "N,4,8,8", "N,6,6,6", (6, 2, 3, 3), (1, 4, 1, 1)),
    "transposed": (
        "ConvTranspose<strides=[2,2]>(z, w)",
        "N,4,5,5",
        "N,3,11,11",
        (4, 3, 3, 3),
        (4, 1, 1),
    ),
    "gemm": ("Gemm<alpha=2.0, beta=0.5>(z, w, b)", "N,3", "N,4", (3, 4), (3,)),
    "gemm-transposed-data": ("Gemm<transA=1>(z, w, b)", "3,N", "N,4", (3, 4), (3, 1)),
    "matmul": ("MatMul(z, w)", "N,M,3", "N,M,4", (3, 4), (3,)),
    "matmul-left": ("MatMul(w, z)", "N,3,5", "N,4,5", (4, 3), (3, 1)),
    "matmul-scalar": ("MatMul(z, w)", "N,M,3", "N,M,4", (3, 4), ()),
}


@pytest.mark.parametrize("how", ["Mul(x, c)", "Div(x, c)"])
@pytest.mark.parametrize("case", BEFORE)
def test_before(case: str, how: str) -> None:
    linear, x, y, shape, scale = BEFORE[case]
    constants = weights(w=shape, vc=scale, b=(4,))
    constants["c"] = constants.pop("vc")
    model = build(f"(float[{x}] x) => (float[{y}] y) {{ z = {how} y = {linear} }}", constants)
    folds(model, STEP, [model.graph[1].op_type])


def test_before_keeps_a_bias_that_is_an_input() -> None:
    text = """(float[N,3] x, float[4] b) => (float[N,4] y)
    { z = Mul(x, c) y = Gemm<beta=0.5>(z, w, b) }"""
    model = build(text, weights(w=(3, 4), c=(3,)))
    folds(model, STEP, ["Gemm"])
    assert model.graph[0].attributes["beta"].as_float() == 0.5


def conv(c: tuple[int, ...], y: str = "N,4,6,6") -> tuple[str, dict[str, np.ndarray]]:
    text = f"(float[N,3,8,8] x) => (float[{y}] y) {{ z = Conv(x, w) y = Mul(z, c) }}"
    return text, weights(w=(4, 3, 3, 3), c=c)


@pytest.mark.parametrize(
    ("shape", "y"),
    [
        ((6,), "N,4,6,6"),
        ((6, 6), "N,4,6,6"),
        ((4, 6, 1), "N,4,6,6"),
        ((2, 1, 1, 1), "2,4,6,6"),
        ((1, 1, 1, 1, 1), "1,N,4,6,6"),
    ],
)
def test_declines_a_constant_along_other_axes(shape: tuple[int, ...], y: str) -> None:
    text, constants = conv(shape, y)
    text = text.replace("N,", "2,") if y.startswith("2") else text
    declines(build(text, constants), STEP, "does not lie along axis 1")


def test_declines_rows_of_a_matmul() -> None:
    text = "(float[4,3] x) => (float[4,4] y) { z = MatMul(x, w) y = Mul(z, c) }"
    model = build(text, weights(w=(3, 4), c=(4, 1)))
    declines(model, STEP, "does not lie along axis 1 of 2")


def test_declines_a_constant_that_stretches_the_data() -> None:
    text = "(float[N,1,8,8] x) => (float[N,4,6,6] y) { z = Mul(x, c) y = Conv(z, w) }"
    model = build(text, weights(w=(4, 3, 3, 3), c=(3, 1, 1)))
    declines(model, STEP, "not known to have 3 channels")


def test_declines_a_constant_that_adds_an_axis() -> None:
    text = "(float[8,3] x) => (float[N,8,4] y) { z = Mul(x, c) y = MatMul(z, w) }"
    declines(build(text, weights(w=(3, 4), c=(1, 1, 1))), STEP, "the rank of 'x'")


def test_declines_division_by_zero() -> None:
    text = "(float[N,3] x) => (float[N,4] y) { z = MatMul(x, w) y = Div(z, c) }"
    constants = weights(w=(3, 4)) | {"c": np.zeros(4, "f4")}
    declines(build(text, constants), STEP, "zero where it divides")


def test_declines_overflow() -> None:
    text = "(float[N,3] x) => (float[N,4] y) { z = MatMul(x, w) y = Mul(z, c) }"
    constants = {"w": np.full((3, 4), 1e30, "f4"), "c": np.full(4, 1e30, "f4")}
    declines(build(text, constants), STEP, "does not fit float32")


def test_declines_a_shared_weight_and_a_batched_weight_and_float16() -> None:
    text = "(float[N,3] x) => (float[N,4] y, float[N,4] z) { a = MatMul(x, w) y = Mul(a, c) z = MatMul(x, w) }"
    declines(build(text, weights(w=(3, 4), c=(4,))), STEP, "weight 'w' is shared")
    text = "(float[2,N,3] x) => (float[2,N,4] y) { a = MatMul(x, w) y = Mul(a, c) }"
    declines(build(text, weights(w=(2, 3, 4), c=(4,))), STEP, "has rank 3, not 2")
    text = "(float16[N,3] x) => (float16[N,4] y) { a = MatMul(x, w) y = Mul(a, c) }"
    declines(build(text, weights(0, "float16", w=(3, 4), c=(4,))), STEP, "float16")


def test_declines_a_second_reader() -> None:
    text = "(float[N,3] x) => (float[N,4] y, float[N,4] a) { a = MatMul(x, w) y = Mul(a, c) }"
    declines(build(text, weights(w=(3, 4), c=(4,))), STEP, "read elsewhere")


def test_leaves_a_product_of_activations() -> None:
    text = "(float[N,3] x, float[3,4] w) => (float[N,4] y) { a = MatMul(x, w) y = Mul(a, c) }"
    declines(build(text, weights(c=(4,))), STEP, "'w' of MatMul 'MatMul_0' is not a constant")
