"""The front of measured points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.solve.pareto import Point, dominators, front

points = st.lists(
    st.builds(
        Point,
        st.just("p"),
        st.integers(0, 5),
        st.one_of(st.none(), st.integers(0, 5).map(float)),
        st.integers(0, 5).map(float),
    ),
    max_size=12,
)


def beats(one: Point, other: Point) -> bool:
    pairs = list(zip(one.costs(), other.costs(), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(points)
def test_nothing_on_the_front_is_beaten_and_everything_else_is(found: list[Point]) -> None:
    kept = front(found)
    for k, by in enumerate(dominators(found)):
        beaten = any(beats(other, found[k]) for other in found)
        assert (k in kept) == (by is None) == (not beaten)
        if by is not None:
            assert beats(found[by], found[k])
            assert by in kept


def test_names_in_order_of_size() -> None:
    measured = [
        Point("source", 100, 3.0, 0.90),
        Point("int8", 25, 1.0, 0.89),
        Point("slow int8", 25, 1.5, 0.89),
        Point("int4", 13, 2.0, 0.85),
        Point("copy of int8", 25, 1.0, 0.89),
        Point("not timed", 25, None, 0.895),
    ]
    assert [measured[k].name for k in front(measured)] == [
        "int4",
        "int8",
        "copy of int8",
        "not timed",
        "source",
    ]
    assert dominators(measured)[2] == 1


def test_a_point_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="point 'odd' was measured as not a number"):
        front([Point("odd", 1, 1.0, float("nan"))])
    assert front([]) == ()
