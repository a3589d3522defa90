import itertools

import numpy as np
import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.merge_slices import MergeSlices, within
from whet.passes.forms import Range, ranges_of

HUGE = 2**63 - 1


def twice(first: Range, second: Range, shape: str = "N, 9, 7") -> str:
    names = {"p": first, "q": second}
    constants = ", ".join(
        f"int64[1] {name}{part} = {{{getattr(taken, field)}}}"
        for name, taken in names.items()
        for part, field in (("s", "start"), ("e", "end"), ("a", "axis"), ("t", "step"))
    )
    return (
        f"(float[{shape}] x) => (float[A, B, C] y) <{constants}> "
        "{ u = Slice(x, ps, pe, pa, pt) y = Slice(u, qs, qe, qa, qt) }"
    )


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (Range(1, 2, 8), Range(2, 1, 5), [Range(1, 2, 8), Range(2, 1, 5)]),
        (Range(-1, -1, -HUGE, -2), Range(1, -4, -1), [Range(1, -4, -1), Range(2, -1, -HUGE, -2)]),
        (Range(1, 2, 8), Range(1, 1, 3), [Range(1, 3, 5)]),
        (Range(1, 2, 8), Range(-2, 1, HUGE), [Range(1, 3, 8)]),
        (Range(1, 2, 4), Range(1, 3, 9), [Range(1, 5, 4)]),
        (Range(0, 1, HUGE), Range(0, 0, 1), [Range(0, 1, 2)]),
    ],
)
def test_two_become_one(first: Range, second: Range, merged: list[Range]) -> None:
    model, _ = run_pass(twice(first, second), MergeSlices())
    assert op_types(model) == ["Slice"]
    assert list(ranges_of(next(iter(model.graph)))) == merged


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (Range(1, 0, 8, 2), Range(1, 1, 3), "in steps"),
        (Range(1, 0, 8), Range(1, 0, 4, 2), "in steps"),
        (Range(1, -4, 8), Range(1, 0, 2), "counted from its end"),
        (Range(1, 0, 8), Range(1, 0, -1), "counted from its end"),
    ],
)
def test_declines_one_axis_in_steps_or_from_the_end(
    first: Range, second: Range, reason: str
) -> None:
    declines(twice(first, second), MergeSlices(), reason)


def test_leaves_a_slice_that_is_read_elsewhere() -> None:
    text = twice(Range(1, 2, 8), Range(1, 1, 3)).replace("C] y)", "C] y, float[P, Q, R] z)")
    declines(text.replace(" }", " z = Relu(u) }"), MergeSlices())


def test_declines_ends_computed_at_run_time() -> None:
    declines(
        """(float[N] x, float[M] o) => (float[A] y) <int64[1] s = {0}, int64[1] t = {2}> {
            e = Shape(o) u = Slice(x, s, e) y = Slice(u, s, t) }""",
        MergeSlices(),
        "computed at run time",
    )


def test_attributes() -> None:
    model, _ = run_pass(
        """(float[N, 5] x) => (float[A, B] y) {
            u = Slice<starts = [1], ends = [4], axes = [1]>(x)
            y = Slice<starts = [1], ends = [9], axes = [1]>(u) }""",
        MergeSlices(),
        opset=9,
    )
    assert op_types(model) == ["Slice"]


def test_every_small_range_agrees_with_slicing_twice() -> None:
    line = np.arange(5)
    limits = range(7)
    for a, b, c, d in itertools.product(limits, limits, limits, limits):
        merged = within(Range(0, a, b), Range(0, c, d))
        assert list(line[a:b][c:d]) == list(line[merged.start : merged.end])
