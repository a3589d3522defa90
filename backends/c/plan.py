"""The memory of a program: order, places, what it takes and what takes most."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from whet.backends.c.arena import place
from whet.backends.c.program import Buffer, Program, Step
from whet.backends.c.schedule import lifetimes, schedule

__all__ = ["Footprint", "Plan", "make_plan"]

_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a program takes of a device."""

    constants: int
    """Bytes of weights and tables."""
    arena: int
    bound: int
    """Bytes of the largest set of tensors that are there together, which no arena can be smaller than."""
    largest_constants: tuple[tuple[str, int], ...]
    largest_live: tuple[tuple[str, int], ...]
    """The largest tensors among those at the fullest step."""
    code: int | None = None
    """Bytes of machine code, where a compiler was there; ``compiled`` says with what."""
    compiled: str = ""

    @property
    def flash(self) -> int:
        """Return the bytes of constants and code."""
        return self.constants + (self.code or 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)

    def over(self, ram: int | None, flash: int | None) -> list[str]:
        """Return which limits are broken, with the largest tensors."""
        found: list[str] = []
        if ram is not None and self.arena > ram:
            found.append(
                f"RAM is {self.arena:,} bytes of arena, the budget {ram:,}; the largest tensors at the fullest step "
                f"are {_listed(self.largest_live)}"
            )
        if flash is not None and self.flash > flash:
            code = (
                ""
                if self.code is None
                else f" ({self.constants:,} of constants, {self.code:,} of code)"
            )
            found.append(
                f"flash is {self.flash:,} bytes{code}, the budget {flash:,}; the largest constants are "
                f"{_listed(self.largest_constants)}"
            )
        return found


def _listed(largest: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"'{name}' {size:,}" for name, size in largest) or "none"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps in order, and the place of every buffer in the arena."""

    steps: Sequence[Step]
    offsets: Mapping[Buffer, int]
    footprint: Footprint


def make_plan(program: Program, *, seed: int = 0) -> Plan:
    """Order the steps of a program and plan its arena."""
    steps = schedule(program.steps, seed=seed)
    lives = lifetimes(steps)
    placement = place(lives.intervals, seed=seed)
    offsets = {buffer: placement.offsets[k] for buffer, k in lives.piece.items()}
    constants = sorted(
        ((name, t.size * t.dtype.itemsize) for name, t in program.constants), key=_size
    )
    footprint = Footprint(
        constants=sum(size for _, size in constants),
        arena=placement.size,
        bound=lives.peak,
        largest_constants=tuple(constants[:_SHOWN]),
        largest_live=_fullest(lives.piece, lives.intervals),
    )
    return Plan(steps, offsets, footprint)


def _size(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _fullest(piece: Mapping[Buffer, int], intervals: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    """Return the largest tensors at the step at which most memory is in use."""
    if not intervals:
        return ()
    totals = {
        i.first: sum(j.size for j in intervals if j.first <= i.first <= j.last) for i in intervals
    }
    step = max(totals, key=lambda s: totals[s])
    names: dict[int, str] = {}
    for buffer, k in piece.items():
        names.setdefault(k, buffer.name)
    live = [(names[k], i.size) for k, i in enumerate(intervals) if i.first <= step <= i.last]
    return tuple(sorted(live, key=_size)[:_SHOWN])
