"""Tune one model: find its kernels, tune them, hold the whole against the whole."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.backends.facts import Facts
from whet.backends.measure import Timing, compare_speed
from whet.backends.tvm.artifact import write_seen
from whet.backends.tvm.building import fuse
from whet.backends.tvm.emission import emit
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedules
from whet.backends.tvm.tuning.database import Database
from whet.backends.tvm.tuning.stand import Stand
from whet.backends.tvm.tuning.tuner import Tuned, Tuner
from whet.backends.worker import Worker

__all__ = ["Session", "worse"]

_JUDGING = 4.0
"""Seconds that the race of the whole takes, beside building it twice."""


class Session:
    """One tuning of one model."""

    def __init__(
        self,
        facts: Facts,
        machine: Machine,
        compiler: str,
        progress: Callable[[str], None],
        database: Database | None = None,
    ) -> None:
        """Take the model as it is lowered, and where to say how far it is."""
        self._facts = facts
        self._machine = machine
        self._compiler = compiler
        self._progress = progress
        self._database = database or Database(machine)

    def run(self, seconds: float) -> list[str]:
        """Tune for so long, the final race included; return what came of it."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            usual = Path(folder) / "usual"
            self._progress("tune: build it as it is")
            self._write(usual, Schedules())
            built = time.monotonic() - start
            schedules = Schedules(self._database.best)
            emitted = emit(self._facts, self._machine, schedules)
            fuse(emitted.module, self._machine, schedules)
            before = set(schedules.better)
            left = max(seconds - 2 * built - _JUDGING, seconds / 2)
            cold = sum(array.nbytes for array in emitted.weights.values())
            with Stand(self._machine, cold=cold) as stand:
                tuner = Tuner(stand, self._database, left, progress=self._progress)
                found = tuner.run(schedules)
            notes = [_words(found), *found.failures]
            taken = {key for key in schedules.works if self._database.best(key)[0]}
            if taken and (taken != before or not found.idle):
                notes.append(self._judge(Path(folder), taken))
            return notes

    def _judge(self, folder: Path, taken: set[str]) -> str:
        """Time the whole model with and without what was found; take that back if it did not become faster."""
        self._progress("tune: time the whole model")
        self._write(folder / "tuned", Schedules(self._database.best))
        options = RuntimeOptions(threads=self._machine.threads)
        with (
            Worker(folder / "usual", options, "tvm") as first,
            Worker(folder / "tuned", options, "tvm") as second,
        ):
            usual, tuned = compare_speed((first, second), [self._facts.feeds] * 2)
        if worse(usual, tuned):
            for key in taken:
                self._database.drop(key, "the whole model was not faster with what was chosen")
            return f"the tuned schedules were taken back: the whole model takes {usual} without, {tuned} with them"
        return f"the whole model: {usual} as it was, {tuned} tuned"

    def _write(self, folder: Path, schedules: Schedules) -> None:
        folder.mkdir()
        write_seen(self._facts, folder, self._machine, self._compiler, schedules)


def worse(usual: Timing, tuned: Timing) -> bool:
    """Tell whether tuning did harm: a median above, and more than noise, which is where the quartiles meet."""
    return tuned.median > usual.median and tuned.low > usual.high


def _words(found: Tuned) -> str:
    end = ", interrupted" if found.interrupted else ""
    return (
        f"tuned {found.done} of {found.kernels} kernels that take time to their end{end}: all of the model's, each by "
        f"itself, take {found.before:.3g} ms as usual and {found.after:.3g} ms now"
    )
