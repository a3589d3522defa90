import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.analysis.size_arithmetic import Size, add, divide, multiply, parse_size, subtract
from whet.ir.bindings import evaluate_dimension

SIZES = {"a": 3, "b": 5, "batch": 7}


def value(size: Size) -> int | None:
    return evaluate_dimension(size if isinstance(size, int) else str(size), SIZES)


@pytest.mark.parametrize(
    ("text", "printed"),
    [("2*a + 1", "1 + 2*a"), ("a*b - a*b", "0"), ("(a*b*4)//(2*a)", "2*b"), ("b*a", "a*b")],
)
def test_equal_sums_are_written_alike(text: str, printed: str) -> None:
    assert str(parse_size(text)) == printed


def test_names_that_are_no_arithmetic_are_symbols() -> None:
    assert str(parse_size("input.1-dim 0")) == "(input.1-dim 0)"
    assert parse_size("input.1-dim 0") == parse_size("input.1-dim 0")


def test_a_division_with_a_rest_is_a_symbol_that_still_evaluates() -> None:
    size = divide(parse_size("a + 1"), parse_size("b"))
    assert size == divide(parse_size("1 + a"), parse_size("b"))
    assert size is not None
    assert value(multiply(2, size)) == 2 * ((3 + 1) // 5)


def test_nothing_is_divided_by_zero() -> None:
    assert divide(parse_size("a"), 0) is None


numbers = st.sampled_from([*range(1, 7), *(parse_size(name) for name in SIZES)])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(numbers, numbers, numbers)
def test_arithmetic_agrees_with_numbers(one: Size, two: Size, three: Size) -> None:
    a, b, c = value(one), value(two), value(three)
    assert a is not None
    assert b is not None
    assert c is not None
    assert value(add(multiply(one, two), three)) == a * b + c
    assert value(subtract(one, subtract(two, three))) == a - (b - c)
    assert divide(multiply(one, two), two) == one
    assert add(one, two) == add(two, one)
