import numpy as np
import onnx_ir
import pytest
from rewriting import declines, model_of, op_types, run_pass

from whet.passes.canonical.eliminate_common_subexpressions import EliminateCommonSubexpressions


def test_chains_are_merged_from_the_front() -> None:
    model, coverage = run_pass(
        """(float[N] x) => (float[N] y) {
            a = Exp(x) b = Exp(x) c = Neg(a) d = Neg(b) y = Add(c, d) }""",
        EliminateCommonSubexpressions(),
    )
    assert op_types(model) == ["Exp", "Neg", "Add"]
    assert coverage.changed == 2


def test_one_of_two_may_be_an_output() -> None:
    model, _ = run_pass(
        "(float[N] x) => (float[N] y, float[N] z) { a = Exp(x) y = Exp(x) z = Neg(a) }",
        EliminateCommonSubexpressions(),
    )
    assert op_types(model) == ["Exp", "Neg"]


def test_two_outputs_keep_their_names() -> None:
    model, _ = run_pass(
        "(float[N] x) => (float[N] y, float[N] z) { y = Exp(x) z = Exp(x) }",
        EliminateCommonSubexpressions(),
    )
    assert op_types(model) == ["Exp", "Identity"]


def test_operators_with_several_outputs() -> None:
    model, _ = run_pass(
        """(float[N, 4] x) => (float[N, 2] y, float[N, 2] z) {
            a, b = Split<axis = 1, num_outputs = 2>(x) c, d = Split<axis = 1, num_outputs = 2>(x)
            y = Add(a, d) z = Add(b, c) }""",
        EliminateCommonSubexpressions(),
    )
    assert op_types(model) == ["Split", "Add", "Add"]


def test_a_capture_follows() -> None:
    model, _ = run_pass(
        """(bool c, float[N] x) => (float[N] y) {
            a = Exp(x) b = Exp(x)
            w = If (c) <
                then_branch = t () => (float[N] u) { u = Relu(a) },
                else_branch = e () => (float[N] v) { v = Neg(b) }>
            y = Abs(w)
        }""",
        EliminateCommonSubexpressions(),
    )
    assert op_types(model) == ["Exp", "If", "Abs"]


@pytest.mark.parametrize(
    "text",
    [
        "(float[N] x) => (float[N] y) { a = Exp(x) b = Neg(x) y = Add(a, b) }",
        "(float[N] x) => (float[N] y) { a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu<alpha = 0.2>(x) y = Add(a, b) }",
        "(float[N] x, float[N] z) => (float[N] y) { a = Sub(x, z) b = Sub(z, x) y = Add(a, b) }",
        """(bool c, float[N] x) => (float[N] y) {
            a = If (c) <
                then_branch = t () => (float[N] u) { u = Relu(x) },
                else_branch = e () => (float[N] v) { v = Neg(x) }>
            b = If (c) <
                then_branch = t () => (float[N] p) { p = Relu(x) },
                else_branch = e () => (float[N] q) { q = Neg(x) }>
            y = Add(a, b) }""",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    declines(text, EliminateCommonSubexpressions())


def test_random_operators_stay() -> None:
    model = model_of(
        """() => (float[4] y) {
            a = RandomNormal<shape = [4], seed = 1.0>() b = RandomNormal<shape = [4], seed = 1.0>()
            c = Sub(a, a) d = Sub(b, b) y = Add(c, d) }"""
    )
    run_pass(model, EliminateCommonSubexpressions())
    assert op_types(model) == ["RandomNormal", "RandomNormal", "Sub", "Sub", "Add"]


def test_nan_attributes_are_equal_and_zeros_of_both_signs_are_not() -> None:
    text = """(float[N] x) => (float[N] y) {
        a = LeakyRelu(x) b = LeakyRelu(x) y = Add(a, b) }"""
    for first, second, left in ((np.nan, np.nan, 2), (0.0, -0.0, 3)):
        model = model_of(text)
        for node, alpha in zip(list(model.graph)[:2], (first, second), strict=True):
            node.attributes["alpha"] = onnx_ir.AttrFloat32("alpha", alpha)
        model, _ = run_pass(model, EliminateCommonSubexpressions())
        assert len(model.graph) == left


def test_declines_identities_of_two_outputs() -> None:
    declines(
        "(float[N] x) => (float[N] y, float[N] z) { y = Identity(x) z = Identity(x) }",
        EliminateCommonSubexpressions(),
        "both are outputs",
    )
