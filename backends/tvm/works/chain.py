"""A function that TVM made of operators which have no kernel: fused chains, moves, pools, sums."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule
from whet.backends.tvm.scheduling import USUAL, scheduled
from whet.backends.tvm.works.work import Work
from whet.ir.array import Array

__all__ = ["Chain"]


class Chain(Work):
    """Blocks that rules schedule.

    A schedule says how many ``vectors`` the innermost loop takes at once (0: none), how many ``tasks`` each thread gets
    at least, from 2 to the power of ``small`` elements on threads are used, and sums of how many steps are
    ``unrolled``.
    """

    name: ClassVar[str] = "chain"

    def __init__(self, name: str, function: Any, machine: Machine) -> None:
        """Take a function of blocks, the last parameter of which is its result."""
        self._function = function.without_attr("global_symbol")
        self._machine = machine
        digest = hashlib.sha256(self._function.script().encode()).hexdigest()[:12]
        sizes = " ".join("x".join(map(str, shape)) or "1" for shape, _ in self._parameters())
        self._key = f"chain {name.rstrip('0123456789')} {sizes} {digest}"

    @property
    def key(self) -> str:
        """Return sizes, and a digest of the function."""
        return self._key

    def usual(self) -> Schedule:
        """Return the numbers of the rules."""
        return USUAL

    def groups(self) -> Sequence[Sequence[Schedule]]:
        """Return when to use threads, for how much, and how wide."""
        return [
            [{"small": n} for n in (10, 12, 14, 16, 62)],
            [{"tasks": n} for n in (1, 2, 8, 32)],
            [{"vectors": n} for n in (0, 1, 2, 4)],
            [{"unrolled": n} for n in (0, 16, 64)],
        ]

    def function(self, schedule: Schedule) -> Any:
        """Return the function with its blocks scheduled."""
        return scheduled(self._function, self._machine, schedule)

    def operands(self, draw: np.random.Generator) -> Sequence[Array]:
        """Return random numbers, integers that are indices of anything, truth values."""
        return [_drawn(draw, shape, dtype) for shape, dtype in self._parameters()[:-1]]

    def packed(self, operands: Sequence[Array], schedule: Schedule) -> Sequence[Array]:
        """Return the operands."""
        return operands

    @property
    def constants(self) -> frozenset[int]:
        """Return none: what is constant is not known here."""
        return frozenset()

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        """Return its shape and type."""
        return self._parameters()[-1]

    def _parameters(self) -> list[tuple[tuple[int, ...], str]]:
        return [
            (tuple(int(d) for d in parameter.shape), str(parameter.dtype))
            for parameter in self._function.params
        ]


def _drawn(draw: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "bool":
        return draw.random(shape) < 0.5
    if dtype.startswith("float"):
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, 2, shape).astype(dtype)
