import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.merge_repeated import MergeRepeated


@pytest.mark.parametrize("kind", ["Abs", "Ceil", "Floor", "Relu", "Round", "Sign"])
def test_doing_it_again_changes_nothing(kind: str) -> None:
    text = f"(float[N] x) => (float[N] y) {{ a = {kind}(x) b = {kind}(a) y = {kind}(b) }}"
    model, coverage = run_pass(text, MergeRepeated())
    assert op_types(model) == [kind]
    assert coverage.changed == 2


@pytest.mark.parametrize(
    ("kind", "type"), [("Neg", "float"), ("Not", "bool"), ("BitwiseNot", "int32")]
)
def test_doing_it_again_undoes_it(kind: str, type: str) -> None:
    text = f"({type}[N] x) => ({type}[N] y) {{ a = {kind}(x) b = {kind}(a) y = {kind}(b) }}"
    model, _ = run_pass(text, MergeRepeated())
    assert op_types(model) == [kind]


def test_the_inner_one_stays_for_others() -> None:
    model, _ = run_pass(
        "(float[N] x) => (float[N] y, float[N] z) { a = Neg(x) b = Neg(a) y = Relu(a) z = Relu(b) }",
        MergeRepeated(),
    )
    assert op_types(model) == ["Neg", "Relu", "Relu"]


@pytest.mark.parametrize(
    "body",
    ["a = Exp(x) y = Exp(a)", "a = Abs(x) y = Neg(a)", "a = Reciprocal(x) y = Reciprocal(a)"],
)
def test_leaves_the_rest(body: str) -> None:
    declines(f"(float[N] x) => (float[N] y) {{ {body} }}", MergeRepeated())
