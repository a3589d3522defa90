import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_reshapes import EliminateReshapes


@pytest.mark.parametrize(
    "text",
    [
        "(float[2, 3] x) => (float[2, 3] z) <int64[2] s = {2, 3}> { y = Reshape(x, s) z = Relu(y) }",
        "(float[N, 3] x) => (float[N, 3] z) <int64[2] s = {0, 3}> { y = Reshape(x, s) z = Relu(y) }",
        "(float[N, 3] x) => (float[N, 3] z) <int64[2] s = {-1, 3}> { y = Reshape(x, s) z = Relu(y) }",
        "(float[N, M] x) => (float[N, M] z) <int64[2] s = {0, -1}> { y = Reshape(x, s) z = Relu(y) }",
        "(float[N, 3] x) => (float[N, 3] z) { y = Flatten(x) z = Relu(y) }",
        "(float[2, 3] x) => (float[2, 3] z) { y = Squeeze(x) z = Relu(y) }",
    ],
)
def test_the_same_shape(text: str) -> None:
    model, _ = run_pass(text, EliminateReshapes())
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize(
    "text",
    [
        "(float[2, 3] x) => (float[3, 2] y) <int64[2] s = {3, 2}> { y = Reshape(x, s) }",
        "(float[N, M] x) => (float[P, Q] y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }",
        "(float[N, M] x, float[M, N] o) => (float[M, N] y) { s = Shape(o) y = Reshape(x, s) }",
        "(float[1, 3] x) => (float[3] y) { y = Squeeze(x) }",
        "(float[N, 1, 3] x) => (float[N, 3] y) { y = Flatten(x) }",
    ],
)
def test_leaves_other_shapes(text: str) -> None:
    declines(text, EliminateReshapes())
