"""The never-worse gate: a pass that makes the model larger or slower on the target is taken back."""

import tempfile
from pathlib import Path

import onnx_ir

from whet.backends.base import RuntimeOptions, Target
from whet.backends.measure import compare_speed, slower
from whet.backends.worker import Worker
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun

__all__ = ["NeverWorse"]


class NeverWorse:
    """Compare two states of a model by real bytes and, on the target, real milliseconds."""

    def __init__(
        self, target: Target, options: RuntimeOptions, bindings: Bindings, scratch: Path
    ) -> None:
        """Measure on ``target``, with the inputs of the first binding; ``scratch`` holds temporary files."""
        self._target = target
        self._options = options
        self._bindings = bindings
        self._scratch = scratch

    def __call__(self, before: onnx_ir.Model, after: onnx_ir.Model) -> str:
        """Return why ``after`` is worse than ``before``, or an empty string."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            old, new = Path(folder) / "old", Path(folder) / "new"
            sizes = [self._lower(before, old), self._lower(after, new)]
            if sizes[1] > sizes[0]:
                return f"larger: {sizes[0]:,} bytes before, {sizes[1]:,} after"
            return self._slower(before, old / "model.onnx", new / "model.onnx")

    def _lower(self, model: onnx_ir.Model, folder: Path) -> int:
        folder.mkdir()
        return sum((folder / name).stat().st_size for name in self._target.lower(model, folder))

    def _slower(self, model: onnx_ir.Model, old: Path, new: Path) -> str:
        feeds = self._bindings.feeds(model, 0)
        found = ""
        try:
            with (
                Worker(old, self._options, self._target.name) as first,
                Worker(new, self._options, self._target.name) as second,
            ):
                for _ in range(2):
                    before, after = compare_speed([first, second], [feeds, feeds])
                    if not slower(before, after):
                        return ""
                    found = f"slower, measured twice: {before} before, {after} after"
        except CannotRun as error:
            return f"the result does not run: {error}"
        return found
