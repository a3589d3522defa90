import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_expands import EliminateExpands


@pytest.mark.parametrize(
    "text",
    [
        "(float[N, 3] x) => (float[N, 3] y) <int64[2] s = {1, 3}> { u = Expand(x, s) y = Relu(u) }",
        "(float[2, 3] x) => (float[2, 3] y) <int64[1] s = {1}> { u = Expand(x, s) y = Relu(u) }",
        "(float[N, M] x) => (float[N, M] y) { s = Shape(x) u = Expand(x, s) y = Relu(u) }",
    ],
)
def test_keeping_the_shape_goes(text: str) -> None:
    model, _ = run_pass(text, EliminateExpands())
    assert "Expand" not in op_types(model)


@pytest.mark.parametrize(
    "text",
    [
        """(float[1, 3] x, float[N, 3] z) => (float[N, 3] y) {
            s = Shape(z) u = Expand(x, s) y = Mul(z, u) }""",
        """(float[1, 3] x, float[4, 3] z) => (float[4, 3] y) <int64[2] s = {4, 3}> {
            u = Expand(x, s) y = Sub(u, z) }""",
        """(bool[3] x, float[2, 3] z) => (float[2, 3] y) <int64[2] s = {2, 3}> {
            u = Expand(x, s) y = Where(u, z, z) }""",
    ],
)
def test_a_reader_that_broadcasts_takes_the_operand(text: str) -> None:
    model, _ = run_pass(text, EliminateExpands())
    assert "Expand" not in op_types(model)


def test_only_readers_that_broadcast_are_changed() -> None:
    model, coverage = run_pass(
        """(float[1, 3] x, float[4, 3] z) => (float[4, 3] y, float[12] w) <int64[2] s = {4, 3}, int64[1] k = {-1}> {
            u = Expand(x, s) y = Sub(u, z) w = Reshape(u, k) }""",
        EliminateExpands(),
    )
    assert op_types(model) == ["Expand", "Sub", "Reshape"]
    assert coverage.changed == 1


def test_declines_a_reader_whose_other_operand_is_smaller() -> None:
    declines(
        """(float[1, 3] x, float[3] z) => (float[4, 3] y) <int64[2] s = {4, 3}> {
            u = Expand(x, s) y = Mul(u, z) }""",
        EliminateExpands(),
        "no operand of the expanded shape",
    )


@pytest.mark.parametrize(
    "text",
    [
        "(float[1, 3] x) => (float[4, 3] y) <int64[2] s = {4, 3}> { y = Expand(x, s) }",
        "(float[1, 3] x) => (float[3, 4] y) <int64[2] s = {4, 3}> { u = Expand(x, s) y = Transpose(u) }",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    declines(text, EliminateExpands())
