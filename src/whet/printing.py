"""How results are shown: tables in one style for people, plain data for machines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["new_table", "titled", "to_plain"]


def new_table() -> Table:
    """Return an empty table in the style that all of whet's have."""
    return Table(caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def titled(title: str, table: Table) -> Group:
    """Put a title above a table, which may be narrower, and an empty line below."""
    return Group(Text(title, style="bold"), table, Text())


def to_plain(data: Any) -> Any:
    """Return data that strict JSON can hold: infinities and NaN become text."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {str(k): to_plain(v) for k, v in cast("Mapping[object, Any]", data).items()}
    if isinstance(data, list | tuple):
        return [to_plain(item) for item in cast("Sequence[Any]", data)]
    return data
