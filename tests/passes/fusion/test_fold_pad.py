import math

import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, weights

from whet.ir.values import attribute_ints
from whet.passes.fusion.fold_pad import FoldPad

STEP = FoldPad()
W = {"w": (4, 3, 3, 3)}


def padded(
    user: str,
    pads: list[int],
    y: str,
    *,
    x: str = "N,3,8,8",
    pad: str = "Pad(x, p)",
    fill: float | None = None,
    dtype: str = "float",
    opset: int = 18,
    **shapes: tuple[int, ...],
) -> onnx_ir.Model:
    numpy_dtype = {"float": "float32", "float16": "float16"}[dtype]
    constants = weights(0, numpy_dtype, **shapes) | {"p": np.asarray(pads, np.int64)}
    if fill is not None:
        constants["c"] = np.asarray(fill, numpy_dtype)
    if "p)" not in pad and "p," not in pad:
        del constants["p"]
    text = f"({dtype}[{x}] x) => ({dtype}[{y}] y) {{ z = {pad} y = {user} }}"
    return build(text, constants, opset)


SPATIAL = [0, 0, 1, 2, 0, 0, 3, 0]


@pytest.mark.parametrize(
    ("user", "y"),
    [
        ("Conv(z, w)", "N,4,10,8"),
        ("Conv<strides=[2,2], dilations=[2,1], pads=[1,0,0,1]>(z, w)", "N,4,5,5"),
        ('Conv<auto_pad="VALID", kernel_shape=[3,3]>(z, w)', "N,4,10,8"),
    ],
)
def test_conv(user: str, y: str) -> None:
    model = padded(user, SPATIAL, y, **W)
    folds(model, STEP, ["Conv"])
    own = [1, 0, 0, 1] if "pads" in user else [0, 0, 0, 0]
    assert attribute_ints(model.graph[0], "pads") == tuple(
        a + b for a, b in zip([1, 2, 3, 0], own, strict=True)
    )


def test_conv_with_axes_and_bias() -> None:
    constants = weights(**W, b=(4,)) | {
        "p": np.asarray([2, 1, 0, 1], np.int64),
        "a": np.asarray([-1, 2], np.int64),
        "c": np.asarray(0, np.float32),
    }
    text = "(float[N,3,8,8] x) => (float[N,4,8,8] y) { z = Pad(x, p, c, a) y = Conv(z, w, b) }"
    model = build(text, constants)
    folds(model, STEP, ["Conv"])
    assert attribute_ints(model.graph[0], "pads") == (1, 2, 1, 0)


def test_conv_with_attributes_of_old_opsets() -> None:
    pad = 'Pad<mode="constant", pads=[0,0,1,1,0,0,1,1], value=0.0>(x)'
    folds(padded("Conv(z, w)", [], "N,4,8,8", pad=pad, opset=10, **W), STEP, ["Conv"])
    pad = "Pad<pads=[0,0,1,1,0,0,1,1], value=1.0>(x)"
    model = padded("Conv(z, w)", [], "N,4,8,8", pad=pad, opset=10, **W)
    declines(model, STEP, "fills with 1")


def test_conv_with_float16_and_with_a_weight_that_is_an_input() -> None:
    folds(padded("Conv(z, w)", SPATIAL, "N,4,10,8", dtype="float16", **W), STEP, ["Conv"])
    text = "(float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,10,8] y) { z = Pad(x, p) y = Conv(z, w) }"
    folds(build(text, {"p": np.asarray(SPATIAL, np.int64)}), STEP, ["Conv"])


@pytest.mark.parametrize(
    "attributes", ["", ", count_include_pad=1", ", count_include_pad=1, pads=[1,1,1,1]"]
)
@pytest.mark.parametrize("opset", [18, 22])
def test_average_pool_counts_the_padding(attributes: str, opset: int) -> None:
    user = f"AveragePool<kernel_shape=[4,4], strides=[2,2]{attributes}>(z)"
    y = "N,3,5,5" if "pads" in attributes else "N,3,4,4"
    model = padded(user, [0, 0, 1, 1, 0, 0, 1, 1], y, opset=opset)
    folds(model, STEP, ["AveragePool"])
    assert model.graph[0].attributes["count_include_pad"].as_int() == 1


def test_average_pool_asymmetric() -> None:
    user = "AveragePool<kernel_shape=[4,4]>(z)"
    folds(padded(user, [0, 0, 0, 2, 0, 0, 1, 0], "N,3,6,7"), STEP, ["AveragePool"])


def test_max_pool_pads_with_minus_infinity() -> None:
    user = "MaxPool<kernel_shape=[3,3]>(z)"
    model = padded(user, [*SPATIAL[:7], 2], "N,3,10,10", pad="Pad(x, p, c)", fill=-math.inf)
    declines(model, STEP, "would reach the window")
    pads = [0, 0, 1, 2, 0, 0, 1, 0]
    folds(padded(user, pads, "N,3,8,8", pad="Pad(x, p, c)", fill=-math.inf), STEP, ["MaxPool"])


@pytest.mark.parametrize("kind", ["Relu", "Sigmoid", "Abs"])
def test_max_pool_pads_with_zero_behind_what_is_not_negative(kind: str) -> None:
    text = f"""(float[N,3,8,8] x) => (float[N,3,8,8] y)
    {{ a = {kind}(x) z = Pad(a, p) y = MaxPool<kernel_shape=[3,3]>(z) }}"""
    model = build(text, {"p": np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)})
    folds(model, STEP, [kind, "MaxPool"])


@pytest.mark.parametrize("kind", ["Tanh", "Neg"])
def test_declines_max_pool_over_zeros(kind: str) -> None:
    text = f"""(float[N,3,8,8] x) => (float[N,3,8,8] y)
    {{ a = {kind}(x) z = Pad(a, p) y = MaxPool<kernel_shape=[3,3]>(z) }}"""
    model = build(text, {"p": np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)})
    declines(model, STEP, "fills with 0, which MaxPool does not pad with")


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_declines_other_modes(mode: str) -> None:
    model = padded("Conv(z, w)", SPATIAL, "N,4,10,8", pad=f'Pad<mode="{mode}">(x, p)', **W)
    declines(model, STEP, f"mode '{mode}'")


@pytest.mark.parametrize(
    ("pads", "shape", "y", "reason"),
    [
        ([0, 1, 0, 0, 0, 0, 0, 0], (4, 4, 3, 3), "N,4,6,6", "pads the batch or the channels"),
        ([1, 0, 0, 0, 0, 0, 0, 0], (4, 3, 3, 3), "N,4,6,6", "pads the batch or the channels"),
        ([0, 0, -1, 0, 0, 0, 0, 0], (4, 3, 3, 3), "N,4,5,6", "crops"),
    ],
)
def test_declines_amounts(pads: list[int], shape: tuple[int, ...], y: str, reason: str) -> None:
    x = "2,3,8,8" if pads[0] else "N,3,8,8"
    y = y.replace("N", "3") if pads[0] else y
    declines(padded("Conv(z, w)", pads, y, x=x, w=shape), STEP, reason)


def test_declines_another_fill_and_automatic_padding() -> None:
    model = padded("Conv(z, w)", SPATIAL, "N,4,10,8", pad="Pad(x, p, c)", fill=1.0, **W)
    declines(model, STEP, "fills with 1")
    user = 'Conv<auto_pad="SAME_UPPER">(z, w)'
    declines(padded(user, SPATIAL, "N,4,12,10", **W), STEP, "auto_pad=SAME_UPPER")


def test_declines_amounts_and_fills_that_are_inputs() -> None:
    text = "(float[N,3,8,8] x, int64[8] p) => (float[N,4,H,K] y) { z = Pad(x, p) y = Conv(z, w) }"
    declines(build(text, weights(**W)), STEP, "amounts of Pad are not constants")
    text = "(float[N,3,8,8] x, float c) => (float[N,4,10,8] y) { z = Pad(x, p, c) y = Conv(z, w) }"
    constants = weights(**W) | {"p": np.asarray(SPATIAL, np.int64)}
    declines(build(text, constants), STEP, "fills with is not a constant")


@pytest.mark.parametrize(
    ("attributes", "y", "reason"),
    [
        ("kernel_shape=[4,4], pads=[1,1,1,1]", "N,3,9,9", "does not count it"),
        ("kernel_shape=[4,4], strides=[2,2], ceil_mode=1", "N,3,4,4", "ceil_mode"),
        ("kernel_shape=[1,4]", "N,3,10,7", "would reach the window"),
    ],
)
def test_declines_average_pools(attributes: str, y: str, reason: str) -> None:
    user = f"AveragePool<{attributes}>(z)"
    declines(padded(user, [0, 0, 1, 1, 0, 0, 1, 1], y), STEP, reason)


def test_declines_indices_and_a_second_reader() -> None:
    pads = {"p": np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "c": np.asarray(-np.inf, "f4")}
    text = """(float[N,3,8,8] x) => (float[N,3,8,8] y, int64[N,3,8,8] i)
    { z = Pad(x, p, c) y, i = MaxPool<kernel_shape=[3,3]>(z) }"""
    declines(build(text, pads), STEP, "indices")
    text = """(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,10,10] z)
    { z = Pad(x, p, c) y = MaxPool<kernel_shape=[3,3]>(z) }"""
    declines(build(text, pads), STEP, "read elsewhere")
