"""What one compile works with, what its result is held against, and what was seen of the result."""

import dataclasses
from pathlib import Path
from typing import Any

import onnx_ir

from whet.backends.base import Target
from whet.backends.worker import Turns, Worker
from whet.errors import BrokenPass, InvalidModel
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.metric import Metric
from whet.options import Options
from whet.passes.recipes import Recipe
from whet.preparation import Prepared
from whet.report import Agreement, Cost
from whet.solve.measuring import Scores

__all__ = ["Result", "Scene", "Setting"]


@dataclasses.dataclass
class Setting:
    """The arguments of one compile that are not data, its folders, and what it has to tell."""

    options: Options
    target: Target
    recipe: Recipe
    scratch: Path
    output: Path | None = None
    """Where the artifact will be; None where it is kept in ``scratch``."""
    notes: list[str] = dataclasses.field(default_factory=list[str])
    turns: Turns | None = None
    """Who has a model loaded, where only one may."""

    @property
    def folder(self) -> Path:
        """Return where the artifact is put together."""
        return self.scratch / "artifact"

    def open_source(self, prepared: Prepared) -> Worker:
        """Load the source into a process of its own."""
        try:
            return self._open(prepared.source, "onnxruntime")
        except CannotRun as error:
            raise InvalidModel(f"ONNX Runtime does not load the source: {error}") from error

    def open_result(self) -> Worker:
        """Load what was lowered into a fresh process."""
        try:
            return self._open(self.folder, self.target.spelled)
        except CannotRun as error:
            raise BrokenPass(
                f"{self.target.name} does not load the result: {error} (find it: whet bisect)"
            ) from error

    def settle(self, prepared: Prepared) -> Prepared:
        """Return the source as the target wants it; sizes that it fixes are not dynamic any more."""
        options = self.options
        self.target, model = self.target.settle(
            prepared.model, prepared.examples, options.sizes, options.seed
        )
        return dataclasses.replace(prepared, model=model)

    def _open(self, path: Path, target: str) -> Worker:
        return Worker(path, self.options.runtime, target, self.turns)


@dataclasses.dataclass
class Scene:
    """What a result is held against."""

    prepared: Prepared
    bindings: Bindings
    expected: list[list[Array]]
    before: Worker
    metric: Metric


@dataclasses.dataclass
class Result:
    """What was seen of a lowered model."""

    manifest: dict[str, Any]
    agreements: list[Agreement]
    costs: tuple[Cost, Cost]
    metric: tuple[Scores, Scores] | None
    slower: bool
    model: onnx_ir.Model
    source: onnx_ir.Model
    """As it was before any pass."""
