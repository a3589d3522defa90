"""Tables as data for the page: every cell has words for people and a number to sort by."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Cell",
    "Column",
    "Table",
    "big",
    "finite",
    "ms",
    "number",
    "ratio",
    "share",
    "size",
    "text",
]

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column; ``meaning`` is shown when the mouse rests on its title."""

    title: str
    meaning: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is shown, and what is sorted by; None comes last."""

    text: str
    value: float | None = None
    numeric: bool = False
    style: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the page can sort and filter."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    choices: int | None = None
    """The column whose different words are offered as a choice."""
    left_out: int = 0
    """Rows that are not shown."""


def text(words: object, style: str = "") -> Cell:
    """Return a cell of words."""
    return Cell(str(words), style=style)


def number(value: Any, spell: str) -> Cell:
    """Return a cell of a number, spelled by a format; a dash for what is not known or not finite."""
    found = finite(value)
    return Cell("–" if found is None else format(found, spell), found, True)


def finite(value: Any) -> float | None:
    """Return a number of the report; infinities and NaN are text there and None here."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def big(value: Any) -> Cell:
    """Return a whole number with separators."""
    return number(value, ",.0f")


def ms(value: Any) -> Cell:
    """Return milliseconds."""
    return number(value, ".3g")


def share(value: Any) -> Cell:
    """Return a share in percent."""
    return number(value, ".0%")


def ratio(before: Any, after: Any) -> str:
    """Return after over before."""
    old, new = finite(before), finite(after)
    return "–" if not old or new is None else f"{new / old:.3g}×"


def size(count: Any) -> str:
    """Spell bytes for people."""
    value = finite(count)
    if value is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} bytes"
