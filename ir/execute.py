"""Execute a model with ONNX Runtime: the typed boundary to a library without annotations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime

from whet.ir.values import Array

__all__ = ["CannotRun", "Executor"]

_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class CannotRun(Exception):
    """ONNX Runtime refuses to load or to run the model; the message is its first line."""


class Executor:
    """One session. ``optimization`` is ``none``, ``basic``, ``extended`` or ``all``."""

    def __init__(
        self,
        model: onnx.ModelProto | Path | str,
        *,
        optimization: str = "none",
        threads: int = 1,
        spin: bool = False,
        save_optimized: Path | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Load the model; raises :class:`CannotRun`."""
        options = cast("Any", onnxruntime.SessionOptions())
        options.graph_optimization_level = _LEVELS[optimization]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        try:
            self._session = cast(
                "Any",
                onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]),
            )
        except Exception as error:
            raise CannotRun(_first_line(error)) from error
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Return the outputs in the model's order, or those named; raises :class:`CannotRun`."""
        try:
            found = self._session.run(None if outputs is None else list(outputs), dict(feeds))
        except Exception as error:
            raise CannotRun(_first_line(error)) from error
        return [item if isinstance(item, np.ndarray) else np.asarray(item) for item in found]


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text.split("] ")[-1][:200] if text else type(error).__name__
