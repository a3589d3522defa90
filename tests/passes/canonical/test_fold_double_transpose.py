from rewriting import declines, op_types, run_pass

from whet.ir.values import attribute_ints
from whet.passes.canonical.fold_double_transpose import FoldDoubleTranspose


def test_two_become_one() -> None:
    model, _ = run_pass(
        """(float[N, 2, 3] x) => (float[A, B, C] y) {
            a = Transpose<perm = [1, 2, 0]>(x) y = Transpose<perm = [0, 2, 1]>(a) }""",
        FoldDoubleTranspose(),
    )
    assert op_types(model) == ["Transpose"]
    assert attribute_ints(next(iter(model.graph)), "perm") == (1, 0, 2)


def test_inverses_cancel() -> None:
    model, _ = run_pass(
        """(float[N, 2, 3] x) => (float[N, 2, 3] y) {
            a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [2, 0, 1]>(a) y = Relu(b) }""",
        FoldDoubleTranspose(),
    )
    assert op_types(model) == ["Relu"]


def test_the_default_order_needs_a_rank() -> None:
    model, _ = run_pass(
        "(float[N, 2] x) => (float[N, 2] z) { a = Transpose(x) y = Transpose(a) z = Relu(y) }",
        FoldDoubleTranspose(),
    )
    assert op_types(model) == ["Relu"]


def test_one_alone_stays() -> None:
    declines("(float[N, 2] x) => (float[2, N] y) { y = Transpose(x) }", FoldDoubleTranspose())
