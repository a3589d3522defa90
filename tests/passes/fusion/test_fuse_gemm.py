import numpy as np
import pytest
from folding import build, declines, folds, ops, run, weights

from whet.ir.values import attribute_int
from whet.passes.fusion.fuse_gemm import FuseGemm

STEP = FuseGemm()


@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), (), (1, 1)])
@pytest.mark.parametrize("how", ["Add(z, b)", "Add(b, z)"])
def test_matmul_with_bias(bias: tuple[int, ...], how: str) -> None:
    text = f"(float[N,3] x) => (float[N,4] y) {{ z = MatMul(x, w) y = {how} }}"
    folds(build(text, weights(w=(3, 4), b=bias)), STEP, ["Gemm"])


def test_bias_that_is_an_activation() -> None:
    text = "(float[N,3] x, float[N,4] b) => (float[N,4] y) { z = MatMul(x, w) y = Add(z, b) }"
    folds(build(text, weights(w=(3, 4))), STEP, ["Gemm"])


def test_gemm_takes_a_bias_and_keeps_alpha() -> None:
    text = """(float[N,3] x, float[N,1] b) => (float[N,4] y)
    { z = Gemm<alpha=0.5, beta=3.0, transB=1>(x, w) y = Add(z, b) }"""
    model = build(text, weights(w=(4, 3)))
    folds(model, STEP, ["Gemm"])
    assert "beta" not in model.graph[0].attributes


@pytest.mark.parametrize(
    ("text", "shape", "flags"),
    [
        ("z = Transpose(w) y = MatMul(x, z)", (4, 3), (0, 1)),
        ("z = Transpose<perm=[1,0]>(w) y = Gemm(x, z, b)", (4, 3), (0, 1)),
        ("z = Transpose(w) y = Gemm<transB=1, beta=2.0>(x, z, b)", (3, 4), (0, 0)),
        ("a = Transpose(x) z = Transpose(a) y = MatMul(z, w)", (3, 4), (0, 0)),
    ],
)
def test_transposes_are_absorbed(text: str, shape: tuple[int, ...], flags: tuple[int, int]) -> None:
    constants = weights(w=shape, b=(4,)) if "b)" in text else weights(w=shape)
    model = build(f"(float[N,3] x) => (float[N,4] y) {{ {text} }}", constants)
    folds(model, STEP, ["Gemm"])
    gemm = model.graph[0]
    assert (attribute_int(gemm, "transA", 0), attribute_int(gemm, "transB", 0)) == flags


def test_transposed_data() -> None:
    text = "(float[3,N] x) => (float[N,4] y) { z = Transpose(x) y = MatMul(z, w) }"
    model = build(text, weights(w=(3, 4)))
    folds(model, STEP, ["Gemm"])
    assert attribute_int(model.graph[0], "transA", 0) == 1


def test_a_transpose_with_other_readers_stays() -> None:
    text = "(float[3,N] x) => (float[N,4] y, float[N,3] z) { z = Transpose(x) y = MatMul(z, w) }"
    folds(build(text, weights(w=(3, 4))), STEP, ["Transpose", "Gemm"])


def test_float16() -> None:
    text = "(float16[N,3] x) => (float16[N,4] y) { z = MatMul(x, w) y = Add(z, b) }"
    model = build(text, weights(0, "float16", w=(3, 4), b=(4,)))
    coverage = run(model, STEP)
    assert ops(model) == ["Gemm"]
    assert coverage.proofs == {"float64": 1}


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        (
            "(float[N,M,3] x) => (float[N,M,4] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4), "b": (4,)},
            "the rank of 'x' is 3, not 2",
        ),
        (
            "(float[3] x) => (float[4] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4), "b": (4,)},
            "the rank of 'x' is 1, not 2",
        ),
        (
            "(float[N,3] x) => (float[2,N,4] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4), "b": (2, 1, 4)},
            "the rank of the bias 'b' is 3",
        ),
        (
            "(float[1,3] x) => (float[5,4] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4), "b": (5, 4)},
            "is not known to broadcast",
        ),
        (
            "(float[N,3] x) => (float[N,5] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 1), "b": (5,)},
            "is not known to broadcast",
        ),
        (
            "(float[N,3] x, float[M,4] b) => (float[K,4] y) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4)},
            "is not known to broadcast",
        ),
        (
            "(float[N,3] x) => (float[N,4] y, float[N,4] z) { z = MatMul(x, w) y = Add(z, b) }",
            {"w": (3, 4), "b": (4,)},
            "read elsewhere",
        ),
        (
            "(float[N,3] x) => (float[N,4] y) { z = Transpose<perm=[0,1]>(x) y = MatMul(z, w) }",
            {"w": (3, 4)},
            "keeps the order",
        ),
    ],
)
def test_declines(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    declines(build(text, weights(**shapes)), STEP, reason)


def test_declines_integers() -> None:
    text = "(int32[N,3] x) => (int32[N,4] y) { z = MatMul(x, w) y = Add(z, b) }"
    constants = {"w": np.ones((3, 4), np.int32), "b": np.ones(4, np.int32)}
    declines(build(text, constants), STEP, "INT32")


def test_declines_old_opsets_without_bias() -> None:
    text = "(float[3,N] x) => (float[N,4] y) { z = Transpose(x) y = MatMul(z, w) }"
    declines(build(text, weights(w=(3, 4)), opset=10), STEP, "opset 10")
