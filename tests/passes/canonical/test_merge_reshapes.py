from rewriting import declines, op_types, run_pass

from whet.ir.values import constant_ints
from whet.passes.canonical.merge_reshapes import MergeReshapes


def merged(text: str, sizes: tuple[int, ...], opset: int = 21) -> None:
    model, _ = run_pass(text, MergeReshapes(), opset)
    assert op_types(model) == ["Reshape"]
    assert constant_ints(next(iter(model.graph)).inputs[1]) == sizes


def test_two_reshapes() -> None:
    merged(
        """(float[N, 6] x) => (float[P, 2] y) <int64[2] s = {-1, 3}, int64[2] t = {-1, 2}> {
            a = Reshape(x, s) y = Reshape(a, t) }""",
        (-1, 2),
    )


def test_flatten_squeeze_and_unsqueeze_before_a_reshape() -> None:
    merged(
        """(float[N, 2, 3] x) => (float[P, 2] y) <int64[1] k = {1}, int64[2] t = {-1, 2}> {
            a = Flatten(x) b = Unsqueeze(a, k) c = Squeeze(b, k) y = Reshape(c, t) }""",
        (-1, 2),
    )


def test_a_copied_size_of_the_same_symbol_stays() -> None:
    merged(
        """(float[N, 6] x) => (float[N, 3, 2] y) <int64[3] s = {0, 2, 3}, int64[3] t = {0, 3, 2}> {
            a = Reshape(x, s) y = Reshape(a, t) }""",
        (0, 3, 2),
    )


def test_a_copied_fixed_size_is_written_out() -> None:
    merged(
        """(float[N, 6] x) => (float[3, P] y) <int64[2] s = {3, -1}, int64[2] t = {0, -1}> {
            a = Reshape(x, s) y = Reshape(a, t) }""",
        (3, -1),
    )


def test_unsqueeze_and_squeeze_after_a_reshape() -> None:
    merged(
        """(float[N, 6] x) => (float[N, 1, 2, 3] y) <int64[3] s = {0, 2, 3}, int64[1] k = {1}> {
            a = Reshape(x, s) y = Unsqueeze(a, k) }""",
        (0, 1, 2, 3),
    )
    merged(
        """(float[N, 6] x) => (float[N, 6] y) <int64[3] s = {-1, 1, 6}, int64[1] k = {-2}> {
            a = Reshape(x, s) y = Squeeze(a, k) }""",
        (-1, 6),
    )


def test_a_copied_size_that_moves_becomes_the_open_one() -> None:
    merged(
        """(float[N, 6] x) => (float[1, N, 2, 3] y) <int64[3] s = {0, 2, 3}, int64[1] k = {0}> {
            a = Reshape(x, s) y = Unsqueeze(a, k) }""",
        (1, -1, 2, 3),
    )


def test_axes_as_attributes() -> None:
    merged(
        """(float[N, 6] x) => (float[N, 1, 6] y) <int64[2] s = {-1, 6}> {
            a = Reshape(x, s) y = Unsqueeze<axes = [1]>(a) }""",
        (-1, 1, 6),
        opset=11,
    )


def test_declines_a_copied_size_beside_an_open_one() -> None:
    declines(
        """(float[N, M, 4] x) => (float[P, 2, Q] y) <int64[2] s = {-1, 4}, int64[3] t = {0, 2, -1}> {
            a = Reshape(x, s) y = Reshape(a, t) }""",
        MergeReshapes(),
        "is copied from the value between",
    )


def test_declines_a_computed_shape() -> None:
    declines(
        """(float[N, M] x) => (float[N, M] y) <int64[2] s = {-1, 1}> {
            a = Reshape(x, s) t = Shape(x) y = Reshape(a, t) }""",
        MergeReshapes(),
        "computed at run time",
    )


def test_allowzero_without_a_zero_means_nothing() -> None:
    merged(
        """(float[2, 3] x) => (float[3, 2] y) <int64[1] s = {-1}, int64[2] t = {3, 2}> {
            a = Reshape<allowzero = 1>(x, s) y = Reshape<allowzero = 1>(a, t) }""",
        (3, 2),
    )


def test_declines_allowzero_of_an_empty_tensor() -> None:
    declines(
        """(float[0, 3] x) => (float[3, 0] y) <int64[1] s = {-1}, int64[2] t = {3, 0}> {
            a = Reshape(x, s) y = Reshape<allowzero = 1>(a, t) }""",
        MergeReshapes(),
        "allowzero",
    )


def test_declines_a_squeeze_of_an_open_size() -> None:
    declines(
        """(float[6, 1] x) => (float[6] y) <int64[2] s = {6, -1}, int64[1] k = {1}> {
            a = Reshape(x, s) y = Squeeze(a, k) }""",
        MergeReshapes(),
        "is not written as 1",
    )
    declines(
        """(float[6, 1] x) => (float[6] y) <int64[2] s = {6, 1}> {
            a = Reshape(x, s) y = Squeeze(a) }""",
        MergeReshapes(),
        "without axes",
    )


def test_declines_axes_computed_at_run_time() -> None:
    declines(
        """(float[6, 1] x, int64[1] k) => (float[A, B, C] y) <int64[2] s = {6, 1}> {
            a = Reshape(x, s) y = Unsqueeze(a, k) }""",
        MergeReshapes(),
        "computed at run time",
    )
