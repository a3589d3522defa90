import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_dropout import EliminateDropout

BODY = "y = Relu(a) }"


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (21, "(float[N] x) => (float[N] y) { a = Dropout(x) " + BODY),
        (21, "(float[N] x) => (float[N] y) <float r = {0.5}> { a, m = Dropout(x, r) " + BODY),
        (
            21,
            "(float[N] x) => (float[N] y) <float r = {0.5}, bool t = {0}> { a = Dropout(x, r, t) "
            + BODY,
        ),
        (10, "(float[N] x) => (float[N] y) { a = Dropout<ratio = 0.5>(x) " + BODY),
    ],
)
def test_inference_forms_go(opset: int, text: str) -> None:
    model, _ = run_pass(text, EliminateDropout(), opset)
    assert op_types(model) == ["Relu"]


def test_declines_a_mask_that_is_read() -> None:
    text = "(float[N] x) => (float[N] y, bool[N] m) { y, m = Dropout(x) }"
    declines(text, EliminateDropout(), "its mask is read")


@pytest.mark.parametrize(
    "text",
    [
        "(float[N] x) => (float[N] y) <float r = {0.0}, bool t = {1}> { y = Dropout(x, r, t) }",
        "(float[N] x, bool t) => (float[N] y) <float r = {0.0}> { y = Dropout(x, r, t) }",
    ],
)
def test_declines_training(text: str) -> None:
    declines(text, EliminateDropout(), "training mode")
