import pytest
from rewriting import declines, model_of, op_types, run_pass

from whet.passes.canonical.eliminate_neutral_arithmetic import EliminateNeutralArithmetic


def binary(kind: str, constant: str, operands: str = "x, c", type: str = "float") -> str:
    return (
        f"({type}[N, 3] x) => ({type}[N, 3] y) <{type}{constant}> "
        f"{{ u = {kind}({operands}) y = Identity(u) }}"
    )


@pytest.mark.parametrize(
    "text",
    [
        binary("Mul", " c = {1}"),
        binary("Mul", " c = {1}", "c, x"),
        binary("Mul", "[3] c = {1, 1, 1}"),
        binary("Div", "[1, 1] c = {1}"),
        binary("Pow", " c = {1}"),
        binary("Sub", " c = {0}"),
        binary("Add", " c = {-0.0}"),
        binary("Add", " c = {0}", type="int64"),
        binary("Add", " c = {0}", "c, x", type="int64"),
        binary("And", " c = {1}", type="bool"),
        binary("Or", " c = {0}", "c, x", type="bool"),
    ],
)
def test_neutral_elements_go(text: str) -> None:
    model, _ = run_pass(text, EliminateNeutralArithmetic())
    assert op_types(model) == ["Identity"]


@pytest.mark.parametrize(
    "text",
    [
        binary("Add", " c = {0}"),
        binary("Sub", " c = {-0.0}"),
        binary("Sub", " c = {0}", "c, x"),
        binary("Div", " c = {1}", "c, x"),
        binary("Pow", " c = {1}", "c, x"),
        binary("Mul", "[3] c = {1, 1, 2}"),
        binary("And", " c = {0}", type="bool"),
        "(float[3] x) => (float[1, 3] y) <float[1, 1] c = {1}> { y = Mul(x, c) }",
        "(float[1] x) => (float[3] y) <float[3] c = {1, 1, 1}> { y = Mul(x, c) }",
        "(float[1] x) => (float[0] y) <float[0] c = {}> { y = Mul(x, c) }",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    declines(text, EliminateNeutralArithmetic())


def test_a_constant_that_a_caller_may_override_stays() -> None:
    text = "(float[3] x, float c) => (float[3] y) <float c = {1}> { y = Mul(x, c) }"
    declines(text, EliminateNeutralArithmetic())


def test_an_operand_of_unknown_shape_stays() -> None:
    model = model_of(
        "(float[N] x) => (float[A] y) <float[1] c = {1}> { u = Relu(x) y = Mul(u, c) }"
    )
    next(iter(model.graph)).outputs[0].shape = None
    declines(model, EliminateNeutralArithmetic())
