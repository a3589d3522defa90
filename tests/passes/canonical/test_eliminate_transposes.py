import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_transposes import EliminateTransposes


@pytest.mark.parametrize(
    "text",
    [
        "(float[N, 3] x) => (float[N, 3] y) { a = Transpose<perm = [0, 1]>(x) y = Relu(a) }",
        "(float[N] x) => (float[N] y) { a = Transpose(x) y = Relu(a) }",
    ],
)
def test_the_same_order_goes(text: str) -> None:
    model, _ = run_pass(text, EliminateTransposes())
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize("perm", ["<perm = [1, 0]>", ""])
def test_leaves_another_order(perm: str) -> None:
    declines(
        f"(float[N, 3] x) => (float[3, N] y) {{ y = Transpose{perm}(x) }}", EliminateTransposes()
    )
