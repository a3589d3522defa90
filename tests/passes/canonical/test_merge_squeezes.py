import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.merge_squeezes import MergeSqueezes
from whet.passes.forms import axes_of


def text(kinds: tuple[str, str], shape: str, first: list[int], second: list[int], rank: int) -> str:
    """Write ``y = kind(kind(x, first), second)``."""
    dims = ", ".join(f"D{k}" for k in range(rank))
    one, two = (", ".join(map(str, axes)) for axes in (first, second))
    return (
        f"(float[{shape}] x) => (float[{dims}] y) "
        f"<int64[{len(first)}] a = {{{one}}}, int64[{len(second)}] b = {{{two}}}> "
        f"{{ u = {kinds[0]}(x, a) y = {kinds[1]}(u, b) }}"
    )


@pytest.mark.parametrize(
    ("shape", "first", "second", "axes"),
    [
        ("1, N, 1, 3, 1", [0], [1], (0, 2)),
        ("1, N, 1, 3, 1", [0, -1], [1], (0, 2, 4)),
        ("1, N, 1, 3, 1", [-3], [-1], (2, 4)),
        ("1, N, 1, 3, 1", [4], [0, 2], (0, 2, 4)),
    ],
)
def test_axes_of_the_second_squeeze_count_in_between(
    shape: str, first: list[int], second: list[int], axes: tuple[int, ...]
) -> None:
    rank = 5 - len(first) - len(second)
    model, _ = run_pass(text(("Squeeze", "Squeeze"), shape, first, second, rank), MergeSqueezes())
    assert op_types(model) == ["Squeeze"]
    assert axes_of(next(iter(model.graph))) == axes


@pytest.mark.parametrize(
    ("first", "second", "axes"),
    [([0], [0], (0, 1)), ([1], [0], (0, 2)), ([-1], [1], (1, 3)), ([0, 2], [-1], (0, 2, 4))],
)
def test_axes_of_the_first_unsqueeze_move(
    first: list[int], second: list[int], axes: tuple[int, ...]
) -> None:
    rank = 2 + len(first) + len(second)
    model, _ = run_pass(
        text(("Unsqueeze", "Unsqueeze"), "N, 3", first, second, rank), MergeSqueezes()
    )
    assert op_types(model) == ["Unsqueeze"]
    assert axes_of(next(iter(model.graph))) == axes


@pytest.mark.parametrize(
    ("kinds", "shape", "axes", "rank"),
    [(("Squeeze", "Unsqueeze"), "N, 1, 3", [1], 3), (("Unsqueeze", "Squeeze"), "N, 3", [1], 2)],
)
def test_opposites_cancel(kinds: tuple[str, str], shape: str, axes: list[int], rank: int) -> None:
    source = text(kinds, shape, axes, axes, rank).replace("y = ", "v = ")
    source = source[:-1] + " y = Relu(v) }"
    model, _ = run_pass(source, MergeSqueezes())
    assert op_types(model) == ["Relu"]


def test_omitted_axes_of_a_fixed_shape() -> None:
    model, _ = run_pass(
        """(float[1, 2, 1] x) => (float[1, 2, 1] z) <int64[2] k = {0, 2}> {
            u = Squeeze(x) y = Unsqueeze(u, k) z = Relu(y) }""",
        MergeSqueezes(),
    )
    assert op_types(model) == ["Relu"]


def test_axes_as_attributes() -> None:
    model, _ = run_pass(
        """(float[1, N, 1] x) => (float[N] y) {
            u = Squeeze<axes = [0]>(x) y = Squeeze<axes = [1]>(u) }""",
        MergeSqueezes(),
        opset=11,
    )
    assert op_types(model) == ["Squeeze"]
    assert axes_of(next(iter(model.graph))) == (0, 2)


def test_declines_different_axes() -> None:
    declines(text(("Squeeze", "Unsqueeze"), "N, 1, 3", [1], [0], 3), MergeSqueezes(), "come or go")


def test_declines_omitted_axes_of_a_dynamic_shape() -> None:
    declines(
        """(float[N, 1, 3] x) => (float[A, B, C] y) <int64[1] k = {1}> {
            u = Squeeze(x) y = Unsqueeze(u, k) }""",
        MergeSqueezes(),
        "without axes",
    )


def test_declines_axes_computed_at_run_time() -> None:
    declines(
        """(float[N, 3] x, int64[1] k) => (float[A, B, C, D] y) <int64[1] a = {0}> {
            u = Unsqueeze(x, k) y = Unsqueeze(u, a) }""",
        MergeSqueezes(),
        "computed at run time",
    )
