import numpy as np
import pytest
from folding import build, declines, folds, weights

from whet.ir.values import attribute_int
from whet.passes.base import Fidelity
from whet.passes.fusion.fold_batch_norm import FoldBatchNorm

STEP = FoldBatchNorm()


def norm(channels: int, seed: int = 9) -> dict[str, np.ndarray]:
    return weights(seed, g=(channels,), h=(channels,), m=(channels,), v=(channels,))


def behind(linear: str, shapes: dict[str, tuple[int, ...]], x: str, y: str, channels: int):
    text = f"(float[{x}] x) => (float[{y}] y) {{ z = {linear} y = BatchNormalization<epsilon=0.1>(z, g, h, m, v) }}"
    return build(text, weights(1, **shapes) | norm(channels))


def before(linear: str, shapes: dict[str, tuple[int, ...]], x: str, y: str, channels: int):
    text = (
        f"(float[{x}] x) => (float[{y}] y) {{ z = BatchNormalization(x, g, h, m, v) y = {linear} }}"
    )
    return build(text, weights(1, **shapes) | norm(channels))


BEHIND = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w)", {"w": (4, 3, 3, 3)}, "N,3,8,8", "N,4,8,8", 4),
    "conv-1d": ("Conv(x, w, b)", {"w": (4, 3, 3), "b": (4,)}, "N,3,8", "N,4,6", 4),
    "grouped": ("Conv<group=2>(x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}, "N,4,8,8", "N,6,6,6", 6),
    "depthwise": ("Conv<group=4>(x, w)", {"w": (4, 1, 3, 3)}, "N,4,8,8", "N,4,6,6", 4),
    "transposed": (
        "ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w, b)",
        {"w": (3, 4, 3, 3), "b": (4,)},
        "N,3,5,5",
        "N,4,12,12",
        4,
    ),
    "transposed-grouped": (
        "ConvTranspose<group=2, pads=[1,1,1,1]>(x, w)",
        {"w": (4, 3, 3, 3)},
        "N,4,5,5",
        "N,6,5,5",
        6,
    ),
    "gemm": ("Gemm<alpha=0.5, beta=3.0>(x, w, b)", {"w": (3, 4), "b": (4,)}, "N,3", "N,4", 4),
    "gemm-transposed": ("Gemm<transB=1>(x, w, b)", {"w": (4, 3), "b": (1, 4)}, "N,3", "N,4", 4),
    "gemm-scalar-bias": ("Gemm<beta=2.0>(x, w, b)", {"w": (3, 4), "b": ()}, "N,3", "N,4", 4),
    "gemm-no-bias": ("Gemm<transA=1>(x, w)", {"w": (3, 4)}, "3,N", "N,4", 4),
}


@pytest.mark.parametrize("case", BEHIND)
def test_behind_operator_with_bias(case: str) -> None:
    model = behind(*BEHIND[case])
    coverage = folds(model, STEP, [model.graph[0].op_type])
    assert coverage.proofs == {"float64": 1}
    assert coverage.max_error < 1e-6


@pytest.mark.parametrize(
    ("linear", "shape", "x", "y"),
    [("MatMul(x, w)", (3, 4), "N,3", "N,4"), ("MatMul(w, x)", (4, 3), "N,3,5", "N,4,5")],
)
def test_behind_matmul(linear: str, shape: tuple[int, ...], x: str, y: str) -> None:
    folds(behind(linear, {"w": shape}, x, y, 4), STEP, ["MatMul", "Add"])


def test_behind_matmul_with_add() -> None:
    text = """(float[N,3,5] x) => (float[N,4,5] y)
    { p = MatMul(w, x) z = Add(b, p) y = BatchNormalization(z, g, h, m, v) }"""
    model = build(text, weights(w=(4, 3), b=(4, 1)) | norm(4))
    folds(model, STEP, ["MatMul", "Add"])


def test_new_weight_has_a_fresh_name_and_knows_its_origin() -> None:
    model = behind(*BEHIND["conv"])
    folds(model, STEP, ["Conv"])
    weight = model.graph[0].inputs[1]
    assert weight is not None
    assert weight.name == "w.1"
    assert weight.metadata_props["whet.from"] == "w"
    assert model.graph[0].outputs[0].name == "y"


def test_gemm_keeps_alpha_and_drops_beta() -> None:
    model = behind(*BEHIND["gemm"])
    folds(model, STEP, ["Gemm"])
    assert model.graph[0].attributes["alpha"].as_float() == 0.5
    assert attribute_int(model.graph[0], "transB", 0) == 0
    assert "beta" not in model.graph[0].attributes


BEFORE = {
    "conv": ("Conv(z, w, b)", {"w": (4, 3, 3, 3), "b": (4,)}, "N,3,8,8", "N,4,6,6", 3, ["Conv"]),
    "conv-valid": (
        'Conv<auto_pad="VALID">(z, w)',
        {"w": (4, 3, 3, 3)},
        "N,3,8,8",
        "N,4,6,6",
        3,
        ["Conv"],
    ),
    "grouped": (
        "Conv<group=2, strides=[2,2]>(z, w)",
        {"w": (6, 2, 3, 3)},
        "N,4,8,8",
        "N,6,3,3",
        4,
        ["Conv"],
    ),
    "gemm": (
        "Gemm<alpha=0.5, beta=3.0>(z, w, b)",
        {"w": (3, 4), "b": (4,)},
        "N,3",
        "N,4",
        3,
        ["Gemm"],
    ),
    "gemm-transposed": ("Gemm<transB=1>(z, w)", {"w": (4, 3)}, "N,3", "N,4", 3, ["Gemm"]),
    "matmul": ("MatMul(z, w)", {"w": (3, 4)}, "N,3", "N,4", 3, ["MatMul", "Add"]),
    "matmul-left": ("MatMul(w, z)", {"w": (4, 3)}, "N,3,5", "N,4,5", 3, ["MatMul", "Add"]),
}


@pytest.mark.parametrize("case", BEFORE)
def test_before(case: str) -> None:
    *arguments, expected = BEFORE[case]
    folds(before(*arguments), STEP, expected)


def test_both_sides_of_one_conv() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { p = BatchNormalization(x, g0, h0, m0, v0) q = Conv(p, w, b) y = BatchNormalization(q, g, h, m, v) }"""
    first = {f"{name}0": array for name, array in norm(3, 5).items()}
    model = build(text, weights(w=(4, 3, 3, 3), b=(4,)) | first | norm(4))
    coverage = folds(model, STEP, ["Conv"])
    assert coverage.changed == 2


def test_pure_scale_before_a_padding_conv() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    { z = BatchNormalization(x, g, h, m, v) y = Conv<pads=[1,1,1,1]>(z, w) }"""
    model = build(
        text, weights(w=(4, 3, 3, 3)) | norm(3) | {"h": np.zeros(3, "f4"), "m": np.zeros(3, "f4")}
    )
    folds(model, STEP, ["Conv"])


@pytest.mark.parametrize(
    "linear", ["Conv<pads=[1,1,1,1]>(z, w)", 'Conv<auto_pad="SAME_UPPER">(z, w)']
)
def test_declines_before_a_padding_conv(linear: str) -> None:
    model = before(linear, {"w": (4, 3, 3, 3)}, "N,3,8,8", "N,4,8,8", 3)
    declines(model, STEP, "Conv pads with zeros")


def test_declines_before_conv_transpose() -> None:
    model = before("ConvTranspose(z, w)", {"w": (3, 4, 3, 3)}, "N,3,5,5", "N,4,7,7", 3)
    declines(model, STEP, "differs between its outputs")


def test_declines_training_mode() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { z = Conv(x, w) y, a, b = BatchNormalization<training_mode=1>(z, g, h, m, v) }"""
    declines(build(text, weights(w=(4, 3, 3, 3)) | norm(4)), STEP, "training mode")


def test_declines_parameters_that_are_inputs() -> None:
    text = """(float[N,3,8,8] x, float[4] g) => (float[N,4,6,6] y)
    { z = Conv(x, w) y = BatchNormalization(z, g, h, m, v) }"""
    constants = weights(w=(4, 3, 3, 3)) | norm(4)
    del constants["g"]
    declines(build(text, constants), STEP, "'gamma' of BatchNormalization")


def test_declines_a_second_reader() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] r)
    { z = Conv(x, w) y = BatchNormalization(z, g, h, m, v) r = Relu(z) }"""
    declines(build(text, weights(w=(4, 3, 3, 3)) | norm(4)), STEP, "is read elsewhere too")


def test_declines_a_graph_output_between() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z)
    { z = Conv(x, w) y = BatchNormalization(z, g, h, m, v) }"""
    declines(build(text, weights(w=(4, 3, 3, 3)) | norm(4)), STEP, "is read elsewhere too")


def test_declines_a_shared_weight() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] r)
    { z = Conv(x, w) y = BatchNormalization(z, g, h, m, v) q = Relu(x) r = Conv(q, w) }"""
    declines(build(text, weights(w=(4, 3, 3, 3)) | norm(4)), STEP, "shared")


def test_declines_float16() -> None:
    text = """(float16[N,3,8,8] x) => (float16[N,4,6,6] y)
    { z = Conv(x, w) y = BatchNormalization(z, g, h, m, v) }"""
    constants = weights(w=(4, 3, 3, 3)) | norm(4)
    model = build(text, {name: array.astype("f2") for name, array in constants.items()})
    declines(model, STEP, "float16")


def test_declines_channels_on_another_axis() -> None:
    model = behind("MatMul(x, w)", {"w": (3, 5)}, "N,4,3", "N,4,5", 4)
    declines(model, STEP, "axis 2, not 1")
    model = before("Gemm<transA=1>(z, w)", {"w": (2, 4)}, "2,3", "3,4", 3)
    declines(model, STEP, "axis 0, not 1")


def test_declines_a_bias_that_differs_between_rows() -> None:
    model = behind("Gemm(x, w, b)", {"w": (3, 4), "b": (2, 4)}, "2,3", "2,4", 4)
    declines(model, STEP, "does not lie along axis 1")


def test_declines_a_bias_that_is_an_input() -> None:
    text = """(float[N,3] x, float[4] b) => (float[N,4] y)
    { z = Gemm(x, w, b) y = BatchNormalization(z, g, h, m, v) }"""
    declines(build(text, weights(w=(3, 4)) | norm(4)), STEP, "not a constant")


def test_declines_zero_variance_without_epsilon() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { z = Conv(x, w) y = BatchNormalization<epsilon=0.0>(z, g, h, m, v) }"""
    constants = weights(w=(4, 3, 3, 3)) | norm(4) | {"v": np.zeros(4, "f4")}
    declines(build(text, constants), STEP, "not finite")


def test_declares_rounding() -> None:
    assert STEP.fidelity is Fidelity.ROUNDING
