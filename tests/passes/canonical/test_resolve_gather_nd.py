import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.resolve_gather_nd import ResolveGatherND

STEP = ResolveGatherND()


@pytest.mark.parametrize(
    ("indices", "shape"),
    [
        ("int64[2, 1] i = {3, -4}", "A, B"),
        ("int64[1] i = {2}", "B"),
        ("int64[2, 2, 1] i = {0, 3, 1, 1}", "A, B, C"),
    ],
)
def test_single_indices_are_gathered(indices: str, shape: str) -> None:
    text = f"(float[4, N] x) => (float[{shape}] y) <{indices}> {{ y = GatherND(x, i) }}"
    assert op_types(run_pass(text, STEP)[0]) == ["Squeeze", "Gather"]


def test_before_opset_13_axes_are_an_attribute() -> None:
    text = "(float[4, N] x, int64[M, 1] i) => (float[M, N] y) { y = GatherND(x, i) }"
    assert op_types(run_pass(text, STEP, opset=12)[0]) == ["Squeeze", "Gather"]


def test_leaves_indices_of_several_axes() -> None:
    declines("(float[4, N] x, int64[3, 2] i) => (float[3] y) { y = GatherND(x, i) }", STEP)


def test_declines_a_batch() -> None:
    text = "(float[N, 4] x, int64[N, 1] i) => (float[N] y) { y = GatherND<batch_dims = 1>(x, i) }"
    declines(text, STEP, "each element of the batch has its own indices")
