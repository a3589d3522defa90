"""Execute a model with ONNX Runtime: the typed boundary to a library without annotations."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime

from whet.errors import CannotRun
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["CannotRun", "Executor", "newest_ir_version"]

_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Executor:
    """One session. ``optimization`` is ``none``, ``basic``, ``extended`` or ``all``."""

    def __init__(
        self,
        model: "onnx.ModelProto | Path | str",
        *,
        optimization: str = "none",
        threads: int = 1,
        spin: bool = False,
        save_optimized: Path | None = None,
        config: Mapping[str, str] | None = None,
        profile: Path | None = None,
        disabled: Sequence[str] = (),
    ) -> None:
        """Load the model; raises :class:`CannotRun`. With ``profile``, a path's beginning, runs are profiled.

        ``disabled`` names optimizers of ONNX Runtime to leave out.
        """
        options = cast("Any", onnxruntime.SessionOptions())
        options.graph_optimization_level = _LEVELS[optimization]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        entries = {"session.intra_op.allow_spinning": "1" if spin else "0", **(config or {})}
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        self._session = _open(model, options, list(disabled))
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Return the outputs in the model's order, or those named; raises :class:`CannotRun`."""
        try:
            found = self._session.run(None if outputs is None else list(outputs), dict(feeds))
        except Exception as error:
            raise CannotRun(_first_line(error)) from error
        return [_array(item) for item in found]

    def end_profiling(self) -> str:
        """Write what was seen of every operator; return the path of the file."""
        return str(self._session.end_profiling())


def _open(model: "onnx.ModelProto | Path | str", options: Any, disabled: list[str]) -> Any:
    if not isinstance(model, Path | str):
        return _session(model.SerializeToString(), options, disabled)
    try:
        return _session(str(model), options, disabled)
    except CannotRun as error:
        if "IR version" not in str(error):
            raise
    return _open_newer(Path(model), options, disabled)


def _open_newer(path: Path, options: Any, disabled: list[str]) -> Any:
    """Open a file of a version that ONNX Runtime does not know yet; external data stay where they are."""
    import onnx

    older = onnx.load(str(path), load_external_data=False)
    older.ir_version = newest_ir_version()
    folder = str(path.absolute().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return _session(older.SerializeToString(), options, disabled)


def _session(source: str | bytes, options: Any, disabled: Sequence[str] = ()) -> Any:
    more: dict[str, Any] = {"disabled_optimizers": list(disabled)} if disabled else {}
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], **more
        )
    except Exception as error:
        raise CannotRun(_first_line(error)) from error


@functools.cache
def newest_ir_version() -> int:
    """Return the newest version of the file format that the installed ONNX Runtime reads."""
    import onnx

    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "probe", values[:1], values[1:])
    for ir_version in range(onnx.IR_VERSION, 3, -1):
        imports = [onnx.helper.make_opsetid("", 13)]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
        options = cast("Any", onnxruntime.SessionOptions())
        options.log_severity_level = 4
        try:
            _session(model.SerializeToString(), options)
        except CannotRun:
            continue
        return ir_version
    raise CannotRun("ONNX Runtime reads no version of the file format")


def _array(item: object) -> Array:
    """Return an output as an array; a sequence becomes a one-dimensional array of arrays."""
    if isinstance(item, np.ndarray):
        return cast("Array", item)
    if not isinstance(item, list):
        return np.asarray(item)
    parts = cast("list[object]", item)
    found = np.empty(len(parts), dtype=np.object_)
    found[:] = parts
    return found


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.split("] ")[-1][:400] if text else type(error).__name__
