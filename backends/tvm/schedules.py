"""Which schedule each kernel of a model runs: what is usual, or what was measured to be better."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

__all__ = ["Schedule", "Schedules", "read", "spell"]

if TYPE_CHECKING:
    from whet.backends.tvm.works.work import Work

Schedule = Mapping[str, int]
"""Numbers by name: rows of a tile, vectors of a panel, parts, the order of loops."""


def spell(schedule: Schedule) -> str:
    """Return a schedule as text, always the same for the same one."""
    return " ".join(f"{key}={schedule[key]}" for key in sorted(schedule))


def read(text: str) -> dict[str, int] | None:
    """Return what :func:`spell` wrote; None for anything else."""
    parts = [re.fullmatch(r"([a-z]+)=(\d+)", part) for part in text.split()]
    found = {part.group(1): int(part.group(2)) for part in parts if part is not None}
    return found if parts and len(found) == len(parts) else None


class Schedules:
    """Answers what schedule a kernel has, and notes which kernels there are."""

    def __init__(
        self, known: Callable[[str], tuple[str, float, float]] = lambda _key: ("", 0.0, 0.0)
    ) -> None:
        """Take what returns a better schedule for the key of a kernel, spelled, or nothing.

        Behind it are the milliseconds of the usual one and of it, from one measurement.
        """
        self._known = known
        self.works: dict[str, Work] = {}
        """Every kernel that was asked for, by its key."""
        self.calls: Counter[str] = Counter()
        """How often the model calls it."""
        self.better: dict[str, Mapping[str, float]] = {}
        """Those that do not have the usual one: the milliseconds of both."""

    def find(self, work: "Work", calls: int = 1) -> Schedule:
        """Return the schedule of a kernel that the model calls so often (again)."""
        self.works[work.key] = work
        self.calls[work.key] += calls
        usual = work.usual()
        text, before, after = self._known(work.key)
        found = read(text)
        if found is None or found.keys() != usual.keys():
            return usual
        self.better[work.key] = {f"usual, {spell(usual)}": before, spell(found): after}
        return found
