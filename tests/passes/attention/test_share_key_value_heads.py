import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, ops, run
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.attention.share_key_value_heads import ShareKeyValueHeads

STEP = ShareKeyValueHeads()
HEADS, KEYS, TIMES, SIZE = 6, 2, 3, 8


def model_with(
    how: str, x: str = "N,2,M,8", heads: int = KEYS, **constants: object
) -> onnx_ir.Model:
    """``how`` is a template that repeats the heads of {0} into {1}; it is used for keys and for values."""
    arrays = {
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "twice": np.array([1, 1, 3, 1, 1]),
        "flat": np.array([0, HEADS, -1, SIZE]),
        "flat_late": np.array([0, 0, HEADS, SIZE]),
        "places": np.repeat(np.arange(heads), TIMES),
        **constants,
    }
    body = how.replace("{0}", "k").replace("{1}", "kk") + how.replace("{0}", "v").replace(
        "{1}", "vv"
    )
    used = {
        name: array for name, array in arrays.items() if f"{name})" in body or f"{name}," in body
    }
    text = f"""(float[N,{HEADS},M,8] q, float[{x}] k, float[{x}] v) => (float[N,{HEADS},M,8] y) {{
        {body} y = Attention(q, kk, vv) }}"""
    return build(text, used, opset=23)


SHAPE = "{1}s = Shape({0}) {1}b, {1}h, {1}m, {1}d = Split<num_outputs = 4>({1}s) "
SPELLINGS = {
    "expand": SHAPE
    + "{1}u = Unsqueeze({0}, two) {1}t = Concat<axis = 0>({1}b, {1}h, three, {1}m, {1}d) "
    "{1}w = Expand({1}u, {1}t) {1} = Reshape({1}w, flat) ",
    "tile": "{1}u = Unsqueeze({0}, two) {1}w = Tile({1}u, twice) {1} = Reshape({1}w, flat) ",
    "stack": "{1}u = Unsqueeze({0}, two) {1}w = Concat<axis = 2>({1}u, {1}u, {1}u) "
    "{1} = Reshape({1}w, flat) ",
    "gather": "{1} = Gather<axis = 1>({0}, places) ",
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_repeated_heads(how: str) -> None:
    model = model_with(SPELLINGS[how])
    if how == "expand":
        widen(model)
    before = len(ops(model))
    coverage = folds(model, STEP, ops(model)[:0] + left_over(model, how))
    assert coverage.proofs == {"float64": 1}
    assert len(ops(model)) < before
    attention = model.graph[-1]
    assert [v.name for v in attention.inputs[:3] if v] == ["q", "k", "v"]


def widen(model: onnx_ir.Model) -> None:
    """Note the shapes that shape arithmetic would have found out."""
    for node in model.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = onnx_ir.Shape(["N", KEYS, TIMES, "M", SIZE])
        if node.op_type == "Reshape":
            node.outputs[0].shape = onnx_ir.Shape(["N", HEADS, "M", SIZE])


def left_over(model: onnx_ir.Model, how: str) -> list[str]:
    """Return the operators that compute sizes, which dead code elimination takes away, and the attention."""
    kept = {"Shape", "Split", "Concat"} if how == "expand" else set()
    return [*(kind for kind in ops(model) if kind in kept), "Attention"]


def test_before_the_heads_are_moved() -> None:
    how = "{1}u = Unsqueeze({0}, three) {1}w = Tile({1}u, late) {1}f = Reshape({1}w, flat_late) "
    how += "{1} = Transpose<perm = [0, 2, 1, 3]>({1}f) "
    model = model_with(how, "N,M,2,8", late=np.array([1, 1, 1, 3, 1]))
    folds(model, STEP, ["Transpose", "Transpose", "Attention"])


def test_before_positions_are_put_in() -> None:
    how = "{1}u = Unsqueeze({0}, two) {1}w = Tile({1}u, twice) {1}f = Reshape({1}w, flat) "
    how += "{1} = RotaryEmbedding({1}f, cos, sin, ids) "
    model = model_with(
        how,
        "2,2,5,8",
        cos=np.float32(np.cos(np.arange(20)).reshape(5, 4)),
        sin=np.float32(np.sin(np.arange(20)).reshape(5, 4)),
        ids=np.tile(np.arange(5), (2, 1)),
    )
    for value in model.graph.inputs:
        value.shape = onnx_ir.Shape([2, *list(value.shape or ())[1:2], 5, 8])
    coverage = run(model, STEP)
    assert coverage.changed == 1
    assert ops(model) == ["RotaryEmbedding", "RotaryEmbedding", "Attention"]


@pytest.mark.parametrize(
    "how",
    [
        "{1} = Concat<axis = 1>({0}, {0}, {0}, {0}, {0}, {0}) ",
        "{1} = Tile({0}, six) ",
        "{1} = Gather<axis = 1>({0}, zeros) ",
        "{1}u = Unsqueeze({0}, one) {1}w = Concat<axis = 1>({1}u, {1}u, {1}u, {1}u, {1}u, {1}u) "
        "{1} = Reshape({1}w, flat) ",
    ],
)
def test_one_head_for_all(how: str) -> None:
    model = model_with(how, "N,1,M,8", six=np.array([1, 6, 1, 1]), zeros=np.zeros(6, np.int64))
    folds(model, STEP, ["Attention"])


@pytest.mark.parametrize(
    "how",
    [
        "{1} = Concat<axis = 1>({0}, {0}, {0}) ",
        "{1} = Tile({0}, thrice) ",
        "{1}u = Unsqueeze({0}, one) {1}w = Concat<axis = 1>({1}u, {1}u, {1}u) {1} = Reshape({1}w, flat) ",
        "{1} = Gather<axis = 1>({0}, alternating) ",
    ],
)
def test_declines_heads_that_are_repeated_as_a_whole(how: str) -> None:
    model = model_with(how, thrice=np.array([1, 3, 1, 1]), alternating=np.array([0, 1, 0, 1, 0, 1]))
    reason = "not each 3 times in a row" if "Gather" in how else "[a, b, a, b], not [a, a, b, b]"
    declines(model, STEP, reason)


TEXT = """({inputs}) => (float[N,6,M,8] y{outputs}) {{
    kk = Gather<axis = 1>(k, places) vv = Gather<axis = 1>(v, more) {attention} }}"""


@pytest.mark.parametrize(
    ("inputs", "attention", "outputs", "reason"),
    [
        (
            "float[N,3,M,8] v",
            "y = Attention(q, kk, vv)",
            "",
            "keys are repeated 3 times, values 2 times",
        ),
        (
            "float[N,2,M,8] v",
            "w = Gather<axis = 1>(v, places) x = Relu(w) y = Attention(q, kk, x)",
            "",
            "keys are repeated 3 times, values 1 times",
        ),
        (
            "float[N,2,M,8] v, float[N,6,M,8] pk, float[N,6,M,8] pv",
            "y = Attention(q, kk, w, , pk, pv) ",
            "",
            "the keys of the past are not repeated",
        ),
        (
            "float[N,2,M,8] v",
            "y, ok, ov = Attention(q, kk, w)",
            ", float[N,6,M,8] ok",
            "the repeated keys are an output of the attention",
        ),
    ],
)
def test_declines(inputs: str, attention: str, outputs: str, reason: str) -> None:
    same = "w = Gather<axis = 1>(v, places) "
    text = TEXT.format(
        inputs=f"float[N,6,M,8] q, float[N,2,M,8] k, {inputs}",
        outputs=outputs,
        attention=(
            same if "w)" in attention or ("w," in attention and same not in attention) else ""
        )
        + attention.replace(same, ""),
    )
    model = build(
        text,
        {
            "places": np.array([0, 0, 0, 1, 1, 1]),
            "more": np.array([0, 0, 1, 1, 2, 2][:6]) % (2 if "N,2,M,8] v" in text else 3),
        },
        opset=23,
    )
    declines(model, STEP, reason)


def test_leaves_equal_heads() -> None:
    text = "(float[N,2,M,8] q, float[N,2,M,8] k) => (float[N,2,M,8] y) { y = Attention(q, k, k) }"
    assert run(build(text, opset=23), STEP).matched == 0


@given(
    keys=st.integers(1, 4), times=st.integers(2, 4), size=st.integers(1, 6), wide=st.integers(1, 6)
)
def test_any_number_of_heads(keys: int, times: int, size: int, wide: int) -> None:
    heads = keys * times
    text = f"""(float[N,{heads},M,{size}] q, float[N,{keys},M,{size}] k, float[N,{keys},M,{wide}] v)
        => (float[N,{heads},M,{wide}] y) {{
        ku = Unsqueeze(k, two) kw = Tile(ku, counts) kk = Reshape(kw, flat)
        vv = Gather<axis = 1>(v, places) y = Attention(q, kk, vv) }}"""
    constants = {
        "two": np.array([2]),
        "counts": np.array([1, 1, times, 1, 1]),
        "flat": np.array([0, heads, -1, size]),
        "places": np.repeat(np.arange(keys), times),
    }
    folds(build(text, constants, opset=23), STEP, ["Attention"])
