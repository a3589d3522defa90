"""JSON that people can read: a row of a table is a line."""

import json

from whet.printing import rounded, row_by_row


def test_rows_are_lines_and_nothing_is_lost() -> None:
    data = {
        "a": [{"k": "x" * 90, "n": 1.5}] * 20,
        "long": list(range(2000)),
        "deep": {"b": {"c": None}},
    }
    text = row_by_row(data)
    assert json.loads(text) == data
    lines = text.splitlines()
    assert sum('"k"' in line for line in lines) == 20
    assert sum("1999" in line for line in lines) == 1
    assert '"deep": {"b": {"c": null}}' in text


def test_small_data_are_one_line() -> None:
    assert row_by_row({"a": [1, 2]}) == '{"a": [1,2]}\n'


def test_numbers_are_rounded_to_six_digits() -> None:
    data = {"a": [1 / 3, 7, True, None, "x"], "b": (2e-9 / 3, float("inf"))}
    assert rounded(data) == {"a": [0.333333, 7, True, None, "x"], "b": [6.66667e-10, float("inf")]}
