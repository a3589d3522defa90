import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_slices import EliminateSlices

BIG, HUGE = 2**31 - 1, 2**63 - 1


def sliced(shape: str, start: int, end: int, axis: int, step: int = 1) -> str:
    return (
        f"(float[{shape}] x) => (float[A, B] y) <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, "
        f"int64[1] a = {{{axis}}}, int64[1] t = {{{step}}}> {{ u = Slice(x, s, e, a, t) y = Relu(u) }}"
    )


@pytest.mark.parametrize(
    "text",
    [
        sliced("N, 3", 0, HUGE, 0),
        sliced("N, 3", 0, BIG, -2),
        sliced("N, 3", 0, 3, 1),
        sliced("N, 3", -3, 7, -1),
    ],
)
def test_taking_everything_goes(text: str) -> None:
    model, _ = run_pass(text, EliminateSlices())
    assert op_types(model) == ["Relu"]


def test_attributes() -> None:
    text = f"(float[N, 3] x) => (float[N, 3] y) {{ u = Slice<starts = [0], ends = [{BIG}]>(x) y = Relu(u) }}"
    model, _ = run_pass(text, EliminateSlices(), opset=9)
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize(
    "text",
    [
        sliced("N, 3", 1, HUGE, 0),
        sliced("N, 3", 0, 100, 0),
        sliced("N, 3", 0, -1, 0),
        sliced("N, 3", -1, HUGE, 0),
        sliced("N, 3", 0, 2, 1),
        sliced("N, 3", 0, HUGE, 0, 2),
        sliced("N, 3", -1, -HUGE, 1, -1),
        "(float[N] x, float[M] o) => (float[A] y) <int64[1] s = {0}> { e = Shape(o) y = Slice(x, s, e) }",
    ],
)
def test_leaves_taking_a_part(text: str) -> None:
    declines(text, EliminateSlices())
