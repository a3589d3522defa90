"""Numbers read back to the same bits, names are names of C, blocks are indented."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whet.backends.c.registry import Decline
from whet.backends.c.spelling import c_type, floating, identifier, indent, integer, listed


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(0.1)
@example(-0.0)
@example(1e-45)
def test_floats_read_back_to_the_same_bits(number: float) -> None:
    text = floating(number)
    assert text.endswith("f")
    assert re.search(r"[.e]", text)
    assert np.float32(text[:-1]).tobytes() == np.float32(number).tobytes()


def test_what_is_not_finite_is_a_macro() -> None:
    assert [floating(x) for x in (float("nan"), float("inf"), -float("inf"))] == [
        "NAN",
        "INFINITY",
        "-INFINITY",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (-7, "-7"),
        (2**31 - 1, "2147483647"),
        (-(2**31), "(-2147483647 - 1)"),
        (2**31, "UINT32_C(2147483648)"),
        (2**40, "INT64_C(1099511627776)"),
        (-(2**63), "(-INT64_C(9223372036854775807) - 1)"),
        (2**64 - 1, "UINT64_C(18446744073709551615)"),
    ],
)
def test_integers_have_the_literals_that_c_has(number: int, text: str) -> None:
    assert integer(number) == text


def test_names_of_a_model_become_names_of_c() -> None:
    assert identifier("/layer1/conv.0:w") == "layer1_conv_0_w"
    assert identifier("0.x") == "x0_x"
    assert identifier("größe") == "gr_e"
    assert identifier("…") == "x"


def test_long_arrays_are_broken_into_lines() -> None:
    lines = listed(np.arange(200, dtype=np.int32)).splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert [int(w) for line in lines for w in line.rstrip(",").split(", ")] == list(range(200))


def test_blocks_are_indented_by_braces() -> None:
    assert indent("{\na;\nif (b) {\nc;\n}\n\n}") == "{\n    a;\n    if (b) {\n        c;\n    }\n}"


def test_types_that_c_lacks_are_declined() -> None:
    assert c_type(np.dtype(np.bool_)) == "uint8_t"
    with pytest.raises(Decline, match="float16 is not supported"):
        c_type(np.dtype(np.float16))
