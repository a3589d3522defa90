import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_noop_movement import EliminateNoopMovement

X = "(float[N, 3] x) => (float[N, 3] y) "


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (21, X + "{ u = Split<axis = 1, num_outputs = 1>(x) y = Relu(u) }"),
        (21, X + "<int64[4] p = {0, 0, 0, 0}> { u = Pad(x, p) y = Relu(u) }"),
        (10, X + "{ u = Pad<pads = [0, 0, 0, 0]>(x) y = Relu(u) }"),
        (21, X + "<int64[2] r = {1, 1}> { u = Tile(x, r) y = Relu(u) }"),
        (21, X + "{ u = ReduceSum<noop_with_empty_axes = 1>(x) y = Relu(u) }"),
        (21, "(float[1, 1] x) => (float[1, 1] y) { u = ReduceMean(x) y = Relu(u) }"),
        (
            21,
            "(float[1, 3] x) => (float[1, 3] y) <int64[1] a = {-2}> { u = ReduceMax(x, a) y = Relu(u) }",
        ),
        (13, "(float[1, 3] x) => (float[1, 3] y) { u = ReduceMin<axes = [0]>(x) y = Relu(u) }"),
        (
            21,
            """(float[N, 3] x, float[N, 3] z) => (float[N, 3] y) <bool[3] c = {0, 0, 0}> {
                u = Where(c, x, z) y = Relu(u) }""",
        ),
    ],
)
def test_moving_nothing_goes(opset: int, text: str) -> None:
    model, _ = run_pass(text, EliminateNoopMovement(), opset)
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (
            21,
            "(float[N, 4] x) => (float[N, 2] y, float[N, 2] z) { y, z = Split<axis = 1, num_outputs = 2>(x) }",
        ),
        (21, "(float[N, 3] x) => (float[N, 4] y) <int64[4] p = {0, 0, 0, 1}> { y = Pad(x, p) }"),
        (21, "(float[N, 3] x) => (float[N, 6] y) <int64[2] r = {1, 2}> { y = Tile(x, r) }"),
        (21, "(float[1, 3] x) => (float[1, 1] y) { y = ReduceSum(x) }"),
        (21, "(float[N, 3] x) => (float[1, 3] y) <int64[1] a = {0}> { y = ReduceSum(x, a) }"),
        (13, "(float[1, 3] x) => (float[3] y) { y = ReduceMin<axes = [0], keepdims = 0>(x) }"),
        (
            21,
            "(float[3] x, float[N, 3] z) => (float[N, 3] y) <bool[1] c = {1}> { y = Where(c, x, z) }",
        ),
        (
            21,
            "(float[3] x, float[3] z) => (float[3] y) <bool[3] c = {1, 0, 1}> { y = Where(c, x, z) }",
        ),
        (
            21,
            "(float[N] x) => (float[A] y, int64[B] z) { s = Shape(x) y = Tile(x, s) z = Identity(s) }",
        ),
    ],
)
def test_leaves_the_rest(opset: int, text: str) -> None:
    declines(text, EliminateNoopMovement(), opset=opset)
