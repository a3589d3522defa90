import dataclasses
import typing
from typing import Literal

import pytest

from whet.errors import UsageError
from whet.passes.base import Pass
from whet.passes.option import allowed_of, expected, option
from whet.passes.registry import all_passes
from whet.passes.workbench import Workbench


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError(text)
    return int(text)


@dataclasses.dataclass(frozen=True)
class Shave(Pass):
    """Have an option of every kind that can be wrong."""

    share: float = option(0.5, above=0, below=1)
    count: int = option(1, at_least=1)
    bits: int = option(32, at_least=2, at_most=8, also=(32,))
    least: float = option(0.0, at_most=0)
    small: float = option(0.0, below=1)
    more: float = option(1.0, above=0)
    kinds: tuple[str, ...] = option(("a",), some_of=("a", "b"))
    pairs: tuple[str, ...] = option((), reads=_even, like="even numbers")
    mode: Literal["one", "two"] = "one"
    free: str = ""

    def apply(self, work: Workbench) -> None:
        work.changed_by_hand(0, "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "option 'share' of pass 'shave' is 0.0, expected more than 0 to less than 1"),
        ({"share": 1}, "is 1, expected more than 0 to less than 1"),
        ({"share": float("nan")}, "is nan, expected more than 0"),
        ({"count": 0}, "option 'count' of pass 'shave' is 0, expected at least 1"),
        ({"bits": 9}, "is 9, expected 2 to 8 or 32"),
        ({"least": 1}, "is 1, expected at most 0"),
        ({"small": 1}, "is 1, expected less than 1"),
        ({"more": 0}, "is 0, expected more than 0"),
        ({"kinds": ("a", "c")}, "option 'kinds' of pass 'shave' has 'c', expected some of a, b"),
        ({"pairs": ("2", "3")}, "option 'pairs' of pass 'shave' has '3', expected even numbers"),
        ({"mode": "three"}, "option 'mode' of pass 'shave' is 'three', expected one of one, two"),
    ],
)  # fmt: skip
def test_values_outside(options: dict[str, typing.Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Shave(**options)
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(Shave(), **options)


def test_values_inside() -> None:
    step = Shave(share=0.999, bits=32, kinds=("b", "a"), pairs=("2", "4"), mode="two", free="x")
    assert Shave(bits=2).bits == 2
    assert str(step) == "shave{share=0.999,kinds=b+a,pairs=2+4,mode=two,free=x}"


def test_what_is_expected_in_words() -> None:
    words = {field.name: expected(field) for field in Shave.fields()}
    assert words["share"] == "more than 0 to less than 1"
    assert words["mode"] == "one of one, two"
    assert words["free"] == words["skip"] == ""


@pytest.mark.parametrize("name", list(all_passes()))
def test_every_number_has_a_range(name: str) -> None:
    for field in all_passes()[name].fields():
        assert field.type not in (int, float) or allowed_of(field) is not None, field.name
