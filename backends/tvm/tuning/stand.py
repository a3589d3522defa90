"""Where kernels are built and timed: a process that a wrong one may crash or hang."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from whet.backends.measure import Timing
from whet.backends.tvm.api import tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedule, spell
from whet.backends.tvm.works.work import Work
from whet.backends.worker import Child
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["Race", "Stand", "Timer"]


@dataclasses.dataclass(frozen=True)
class Race:
    """Two schedules of a kernel, timed in alternating blocks."""

    usual: Timing
    other: Timing
    error: float
    """The largest difference of their results over the root mean square."""


class Timer(Protocol):
    """What times schedules."""

    def race(self, work: Work, schedule: Schedule, rounds: int) -> Race:
        """Time a schedule against the usual one; raises CannotRun."""
        ...


class Stand(Child):
    """Times kernels in a child process, which is replaced after it crashed or took too long."""

    module: ClassVar[str] = "whet.backends.tvm.tuning.trial"

    def __init__(
        self, machine: Machine, *, cold: int = 0, block_seconds: float = 0.006, patience: float = 20
    ) -> None:
        """Take bytes of weights that a model reads between two calls of a kernel, and seconds for one race."""
        super().__init__()
        self._machine = machine
        self._cold = cold
        self._block = block_seconds
        self._patience = patience
        self._operands: tuple[str, Sequence[Array]] = ("", ())

    def race(self, work: Work, schedule: Schedule, rounds: int) -> Race:
        """Build both, run both on the same operands, time both."""
        usual = work.usual()
        both = {"usual": usual, "other": schedule}
        arrays: dict[str, Array] = {}
        for name, one in both.items():
            packed = work.packed(self._drawn(work), one)
            arrays.update({f"{name} {k}": array for k, array in enumerate(packed)})
        message = {
            "machine": dataclasses.asdict(self._machine),
            "modules": {name: _text(work, one) for name, one in both.items()},
            "constants": sorted(work.constants),
            "result": [list(work.result[0]), work.result[1]],
            "cold": self._cold,
            "rounds": rounds,
            "seconds": self._block,
        }
        answer = self._patiently(message, arrays, spell(schedule))
        times = {name: Timing.of(answer["ms"][name]) for name in both}
        return Race(times["usual"], times["other"], float(answer["off"]))

    def _drawn(self, work: Work) -> Sequence[Array]:
        if self._operands[0] != work.key:
            self._operands = work.key, work.operands(np.random.default_rng(0))
        return self._operands[1]

    def _patiently(
        self, message: dict[str, Any], arrays: Mapping[str, Array], what: str
    ) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            if self._child is not None:
                self._child.kill()

        watch = threading.Timer(self._patience, end)
        watch.start()
        try:
            return self.ask(message, arrays)[0]
        except CannotRun:
            if late.is_set():
                raise CannotRun(f"{what} took more than {self._patience:g} s") from None
            raise
        finally:
            watch.cancel()


def _text(work: Work, schedule: Schedule) -> str:
    """Return the kernel in a form that another process reads."""
    function = work.function(schedule).with_attr("global_symbol", "main")
    return str(tvm.ir.save_json(tvm.IRModule({"main": function})))
