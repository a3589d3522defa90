"""The never-worse gate: a pass that makes the model larger or slower on the target is taken back."""

import tempfile
from pathlib import Path

import onnx_ir

from whet.backends.base import RuntimeOptions, Target
from whet.backends.measure import compare_speed, slower
from whet.backends.worker import Turns, Worker
from whet.errors import UnsupportedTarget
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun

__all__ = ["NeverWorse"]


class NeverWorse:
    """Compare two states of a model by real bytes and, on the target, real milliseconds."""

    def __init__(
        self,
        target: Target,
        options: RuntimeOptions,
        bindings: Bindings,
        scratch: Path,
        turns: Turns | None = None,
        *,
        timed: bool = True,
    ) -> None:
        """Measure on ``target``, with the inputs of the first binding; ``scratch`` holds temporary files.

        With ``turns`` only one of the two models is loaded at a time. Bytes alone count unless results are ``timed``.
        """
        self._timed = timed and target.timed
        self._turns = turns
        self._target = target
        self._options = options
        self._bindings = bindings
        self._scratch = scratch

    def __call__(self, before: onnx_ir.Model, after: onnx_ir.Model) -> str:
        """Return why ``after`` is worse than ``before``, or an empty string."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            old, new = Path(folder) / "old", Path(folder) / "new"
            try:
                weight = self._lower(after, new)
            except UnsupportedTarget as error:
                return str(error)
            try:
                larger = self._target.larger(self._lower(before, old), weight, (old, new))
            except UnsupportedTarget:
                return ""  # what came before could not be lowered, so nothing got worse
            if larger or not self._timed:
                return larger
            return self._slower(before, old / "model.onnx", new / "model.onnx")

    def _lower(self, model: onnx_ir.Model, folder: Path) -> int:
        folder.mkdir()
        return self._target.weigh(folder, self._target.lower(model, folder))

    def _slower(self, model: onnx_ir.Model, old: Path, new: Path) -> str:
        feeds = self._bindings.feeds(model, 0)
        found = ""
        try:
            with (
                Worker(old, self._options, self._target.spelled, self._turns) as first,
                Worker(new, self._options, self._target.spelled, self._turns) as second,
            ):
                for _ in range(2):
                    before, after = compare_speed(
                        [first, second], [feeds, feeds], together=self._turns is None
                    )
                    if not slower(before, after):
                        return ""
                    found = f"slower, measured twice: {before} before, {after} after"
        except CannotRun as error:
            return f"the result does not run: {error}"
        return found
