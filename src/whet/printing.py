"""How results are shown: tables in one style for people, plain data for machines."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["new_table", "rounded", "row_by_row", "summarize", "titled", "to_plain"]

_QUOTED = re.compile(r"'[^']*'")
"""Names in a reason, which would keep equal reasons apart."""
_LINE = 1000
"""What is longer is broken into lines."""


def new_table() -> Table:
    """Return an empty table in the style that all of whet's have."""
    return Table(caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def titled(title: str, table: Table) -> Group:
    """Put a title above a table, which may be narrower, and an empty line below."""
    return Group(Text(title, style="bold"), table, Text())


def summarize(reasons: Mapping[str, str]) -> list[str]:
    """Return each reason once with its number of places, the most frequent first; site -> reason goes in."""
    alike: dict[str, list[str]] = {}
    for site, reason in reasons.items():
        alike.setdefault(_QUOTED.sub("'…'", reason), []).append(site)
    ranked = sorted(alike.values(), key=len, reverse=True)
    return [
        f"{reasons[sites[0]]} (at {sites[0]}{f' and {len(sites) - 1} more' if sites[1:] else ''})"
        for sites in ranked
    ]


def to_plain(data: Any) -> Any:
    """Return data that strict JSON can hold: infinities and NaN become text."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {str(k): to_plain(v) for k, v in cast("Mapping[object, Any]", data).items()}
    if isinstance(data, list | tuple):
        return [to_plain(item) for item in cast("Sequence[Any]", data)]
    return data


def row_by_row(data: Any, indent: int = 0) -> str:
    """Return JSON with everything that fits on a line on one, such as the rows of a table; ends with a newline."""
    return _rows(data, indent) + "\n"


def _rows(data: Any, indent: int) -> str:
    line = json.dumps(data, default=str, separators=(",", ": "))
    if len(line) + indent <= _LINE or not _nested(data):
        return line
    pad = "\n" + " " * (indent + 1)
    if isinstance(data, dict):
        entries = cast("dict[str, Any]", data).items()
        inner = [f"{json.dumps(key)}: {_rows(value, indent + 1)}" for key, value in entries]
        return "{" + ",".join(pad + item for item in inner) + pad[:-1] + "}"
    items = [_rows(item, indent + 1) for item in cast("list[Any]", data)]
    return "[" + ",".join(pad + item for item in items) + pad[:-1] + "]"


def _nested(data: Any) -> bool:
    """Tell whether there are tables inside: lists of numbers or words stay on one line."""
    if isinstance(data, dict):
        return True
    items: list[Any] = data if isinstance(data, list) else []
    return any(isinstance(item, list | dict) for item in items)


def rounded(data: Any) -> Any:
    """Return plain data with six digits of every number: more than any measurement has."""
    if isinstance(data, float) and math.isfinite(data):
        return float(f"{data:.6g}")
    if isinstance(data, Mapping):
        return {k: rounded(v) for k, v in cast("Mapping[object, Any]", data).items()}
    if isinstance(data, list | tuple):
        return [rounded(item) for item in cast("Sequence[Any]", data)]
    return data
