import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_concats import EliminateConcats


def test_one_operand() -> None:
    text = "(float[N, 3] x) => (float[N, 3] y) { u = Concat<axis = 1>(x) y = Relu(u) }"
    model, _ = run_pass(text, EliminateConcats())
    assert op_types(model) == ["Relu"]


def test_empty_operands() -> None:
    model, _ = run_pass(
        """(float[N, 3] x, float[N, 0] e) => (float[N, 3] y) {
            u = Concat<axis = 1>(e, x, e) y = Relu(u) }""",
        EliminateConcats(),
    )
    assert op_types(model) == ["Relu"]


def test_only_empty_operands_leave_one() -> None:
    model, _ = run_pass(
        "(float[N, 0] e) => (float[N, 0] y) { u = Concat<axis = 1>(e, e) y = Relu(u) }",
        EliminateConcats(),
    )
    assert op_types(model) == ["Relu"]


def test_a_size_of_zero_along_another_axis_is_not_empty() -> None:
    declines(
        "(float[0, 3] x, float[0, 2] e) => (float[0, 5] y) { y = Concat<axis = 1>(x, e) }",
        EliminateConcats(),
    )


def test_nested_along_the_same_axis() -> None:
    model, _ = run_pass(
        """(float[N, 3] a, float[N, 2] b, float[N, 1] c) => (float[N, 9] y) {
            u = Concat<axis = 1>(a, b) v = Concat<axis = -1>(c, a) y = Concat<axis = -1>(u, v) }""",
        EliminateConcats(),
    )
    assert op_types(model) == ["Concat"]
    assert [v.name for v in next(iter(model.graph)).inputs if v is not None] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    "text",
    [
        """(float[2, 2] a, float[2, 2] b) => (float[4, 4] y) {
            u = Concat<axis = 0>(a, b) y = Concat<axis = 1>(u, u) }""",
        """(float[N, 2] a) => (float[N, 4] u, float[N, 6] y) {
            u = Concat<axis = 1>(a, a) y = Concat<axis = 1>(u, a) }""",
        """(float[N, 2] a) => (float[N, 8] y) {
            u = Concat<axis = 1>(a, a) y = Concat<axis = 1>(u, u) }""",
        "(float[N, M] a, float[N, K] b) => (float[N, P] y) { y = Concat<axis = 1>(a, b) }",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    declines(text, EliminateConcats())
