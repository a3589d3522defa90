import numpy as np
import onnx_ir
import pytest
from folding import build, compile_with, declines, folds, ops, run, weights, worst_error

from whet.passes.fusion.fold_scale import FoldScale
from whet.passes.fusion.fold_shift import FoldShift
from whet.passes.pipeline import Fixpoint

STEP = FoldShift()

LINEAR = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", "N,3,8,8", "N,4,8,8", (4, 3, 3, 3), (4, 1, 1)),
    "conv-no-bias": ("Conv(x, w)", "N,3,8,8", "N,4,6,6", (4, 3, 3, 3), (1,)),
    "transposed": ("ConvTranspose(x, w, b)", "N,3,5,5", "N,4,7,7", (3, 4, 3, 3), (4, 1, 1)),
    "gemm": ("Gemm<alpha=2.0, beta=0.5>(x, w, b)", "N,3", "N,4", (3, 4), (4,)),
    "gemm-no-bias": ("Gemm<transB=1>(x, w)", "N,3", "N,4", (4, 3), (1, 4)),
}


@pytest.mark.parametrize("how", ["Add(z, c)", "Add(c, z)", "Sub(z, c)", "Sub(c, z)"])
@pytest.mark.parametrize("case", LINEAR)
def test_behind(case: str, how: str) -> None:
    linear, x, y, shape, shift = LINEAR[case]
    constants = weights(w=shape, c=shift, b=(4,))
    model = build(f"(float[{x}] x) => (float[{y}] y) {{ z = {linear} y = {how} }}", constants)
    coverage = folds(model, STEP, [model.graph[0].op_type])
    assert coverage.proofs == {"float64": 1}


@pytest.mark.parametrize("how", ["Add(z, c)", "Sub(z, c)", "Sub(c, z)"])
def test_behind_matmul_with_bias(how: str) -> None:
    text = f"(float[N,M,3] x) => (float[N,M,4] y) {{ p = MatMul(x, w) z = Add(p, b) y = {how} }}"
    folds(build(text, weights(w=(3, 4), b=(4,), c=(4,))), STEP, ["MatMul", "Add"])


def test_a_pure_shift_keeps_a_shared_weight() -> None:
    text = """(float[N,3] x) => (float[N,4] y, float[N,4] r)
    { z = Gemm(x, w) y = Add(z, c) r = Gemm(x, w) }"""
    model = build(text, weights(w=(3, 4), c=(4,)))
    folds(model, STEP, ["Gemm", "Gemm"])
    assert all(node.inputs[1] is model.graph.initializers["w"] for node in model.graph)


BEFORE = {
    "conv": ("Conv<group=2>(z, w, b)", "N,4,8,8", "N,4,6,6", (4, 2, 3, 3), (4, 1, 1)),
    "gemm": ("Gemm<alpha=2.0, beta=0.5>(z, w, b)", "N,3", "N,4", (3, 4), (3,)),
    "gemm-transposed-data": ("Gemm<transA=1>(z, w, b)", "3,N", "N,4", (3, 4), (3, 1)),
}


@pytest.mark.parametrize("how", ["Add(x, c)", "Sub(x, c)", "Sub(c, x)"])
@pytest.mark.parametrize("case", BEFORE)
def test_before(case: str, how: str) -> None:
    linear, x, y, shape, shift = BEFORE[case]
    constants = weights(w=shape, c=shift, b=(4,))
    model = build(f"(float[{x}] x) => (float[{y}] y) {{ z = {how} y = {linear} }}", constants)
    folds(model, STEP, [model.graph[1].op_type])


def test_before_matmul_with_bias() -> None:
    text = "(float[N,M,3] x) => (float[N,M,4] y) { z = Add(x, c) p = MatMul(z, w) y = Add(p, b) }"
    folds(build(text, weights(w=(3, 4), b=(4,), c=(3,))), STEP, ["MatMul", "Add"])


def test_chain_of_scales_and_shifts_ends_in_one_conv() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { a = Sub(x, c3) p = Div(a, v3) q = Conv(p, w) r = Mul(q, v4) y = Add(r, c4) }"""
    constants = weights(w=(4, 3, 3, 3), v3=(3, 1, 1), c3=(3, 1, 1), v4=(4, 1, 1), c4=(4, 1, 1))
    model = build(text, constants)

    before = onnx_ir.to_proto(model)
    compile_with(model, Fixpoint((FoldScale(), STEP)))
    assert ops(model) == ["Conv"]
    assert worst_error(before, model) <= 1e-5


def test_matmul_with_its_bias_stays() -> None:
    text = "(float[N,M,3] x) => (float[N,M,4] y) { p = MatMul(x, w) y = Add(p, b) }"
    model = build(text, weights(w=(3, 4), b=(4,)))
    assert run(model, STEP).matched == 0
    assert ops(model) == ["MatMul", "Add"]


@pytest.mark.parametrize("shape", [(6,), (4, 6, 6), (1, 1, 6, 1)])
def test_declines_a_constant_along_other_axes(shape: tuple[int, ...]) -> None:
    text = "(float[N,3,8,8] x) => (float[N,4,6,6] y) { z = Conv(x, w) y = Add(z, c) }"
    model = build(text, weights(w=(4, 3, 3, 3), c=shape))
    declines(model, STEP, "does not lie along axis 1 of 4")


def test_declines_before_padding() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    { z = Add(x, c) y = Conv<pads=[1,1,1,1]>(z, w) }"""
    declines(build(text, weights(w=(4, 3, 3, 3), c=(3, 1, 1))), STEP, "pads with zeros")


def test_declines_before_conv_transpose() -> None:
    text = "(float[N,3,5,5] x) => (float[N,4,7,7] y) { z = Add(x, c) y = ConvTranspose(z, w) }"
    model = build(text, weights(w=(3, 4, 3, 3), c=(3, 1, 1)))
    declines(model, STEP, "differs between its outputs")


def test_declines_a_bias_that_is_an_input() -> None:
    text = "(float[N,3] x, float[4] b) => (float[N,4] y) { z = Gemm(x, w, b) y = Add(z, c) }"
    declines(build(text, weights(w=(3, 4), c=(4,))), STEP, "is not a constant")


def test_declines_a_shift_that_is_not_finite() -> None:
    text = "(float[N,3] x) => (float[N,4] y) { z = Gemm(x, w) y = Add(z, c) }"
    constants = weights(w=(3, 4)) | {"c": np.full(4, -np.inf, "f4")}
    declines(build(text, constants), STEP, "not finite")


def test_declines_float16_and_a_second_reader() -> None:
    text = "(float16[N,3] x) => (float16[N,4] y) { z = Gemm(x, w) y = Add(z, c) }"
    declines(build(text, weights(0, "float16", w=(3, 4), c=(4,))), STEP, "float16")
    text = "(float[N,3] x) => (float[N,4] y, float[N,4] z) { z = Gemm(x, w) y = Add(z, c) }"
    declines(build(text, weights(w=(3, 4), c=(4,))), STEP, "read elsewhere")
