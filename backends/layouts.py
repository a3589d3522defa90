"""In which order of axes a value exists while code is made for it."""

from typing import Literal

__all__ = ["LAST", "PLAIN", "Layout", "to_last", "to_plain"]

Layout = Literal["plain", "last"]
PLAIN: Layout = "plain"
"""The standard's order."""
LAST: Layout = "last"
"""Channels, axis 1, last."""


def to_last(rank: int) -> tuple[int, ...]:
    """Return the axes that put channels last, 0 2 3 1; fewer than three stay where they are."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def to_plain(rank: int) -> tuple[int, ...]:
    """Return the axes that undo it, 0 3 1 2."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))
