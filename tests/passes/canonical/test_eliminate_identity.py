import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_identity import EliminateIdentity


def test_a_chain_goes() -> None:
    model, coverage = run_pass(
        "(float[N] x) => (float[N] y) { a = Identity(x) b = Identity(a) y = Relu(b) }",
        EliminateIdentity(),
    )
    assert op_types(model) == ["Relu"]
    assert coverage.changed == 2


def test_an_output_keeps_its_name() -> None:
    model, _ = run_pass(
        "(float[N] x) => (float[N] y) { a = Relu(x) y = Identity(a) }", EliminateIdentity()
    )
    assert op_types(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    "text",
    [
        "(float[N] x) => (float[N] y) { y = Identity(x) }",
        "() => (float[2] y) <float[2] w = {1, 2}> { y = Identity(w) }",
        "(float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }",
    ],
)
def test_declines_what_an_output_needs(text: str) -> None:
    declines(text, EliminateIdentity(), "an output of the graph")


def test_a_capture_follows() -> None:
    model, _ = run_pass(
        """(bool c, float[N] x) => (float[N] y) {
            a = Identity(x)
            y = If (c) <
                then_branch = t () => (float[N] u) { u = Relu(a) },
                else_branch = e () => (float[N] v) { v = Neg(a) }>
        }""",
        EliminateIdentity(),
    )
    assert op_types(model) == ["If"]
