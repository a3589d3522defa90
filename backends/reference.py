"""Lower to ONNX's own reference evaluator: slow, written to be read, and independent of ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir
from onnx.reference import ReferenceEvaluator

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.onnxruntime import lean
from whet.errors import InvalidModel
from whet.ir.execute import CannotRun
from whet.ir.saving import save_model
from whet.ir.values import Array

__all__ = ["Reference"]


class Reference(Target):
    """The reference evaluator in NumPy."""

    name = "reference"

    def refuses(self, model: onnx_ir.Model) -> list[str]:
        """Name operators outside the standard domains."""
        known = {"", "ai.onnx", "ai.onnx.ml"} | {key[0] for key in model.functions}
        foreign = {(n.domain, n.op_type) for n in model.graph.all_nodes() if n.domain not in known}
        return [f"{domain}.{kind}: not a standard operator" for domain, kind in sorted(foreign)]

    def lower(self, model: onnx_ir.Model, folder: Path) -> list[str]:
        """Write ``model.onnx``."""
        save_model(lean(model), folder / "model.onnx")
        return sorted(path.name for path in folder.iterdir())

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Make an evaluator."""
        return _ReferenceRunner(path)

    def versions(self) -> dict[str, str]:
        """Return the version of onnx."""
        from importlib.metadata import version

        return {"onnx": version("onnx")}


class _ReferenceRunner:
    def __init__(self, path: Path) -> None:
        try:
            self._evaluator = cast("Any", ReferenceEvaluator(str(path)))
        except Exception as error:
            raise CannotRun(f"{type(error).__name__}: {error}") from error
        self.inputs: tuple[str, ...] = tuple(self._evaluator.input_names)
        self.outputs: tuple[str, ...] = tuple(self._evaluator.output_names)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Evaluate."""
        try:
            found = self._evaluator.run(None, dict(feeds))
        except InvalidModel:
            raise
        except Exception as error:
            raise CannotRun(f"{type(error).__name__}: {error}") from error
        return [np.asarray(item) for item in found]
