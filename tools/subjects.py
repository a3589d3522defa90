"""What a user points at when models are compared: a model in any form, or an artifact folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx_ir

from whet.artifact import load
from whet.backends.base import RuntimeOptions, find_target
from whet.backends.worker import Worker
from whet.errors import InvalidModel, UsageError
from whet.ir.capture import capture
from whet.ir.execute import CannotRun
from whet.ir.files import load_model
from whet.ir.program import is_program
from whet.ir.saving import save_model
from whet.ir.storage import stored_bytes
from whet.ir.values import Array

__all__ = ["Subject", "read_subject"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One model to be run and compared."""

    label: str
    file: Path
    """The ONNX file."""
    model: onnx_ir.Model
    bytes: int
    """On disk, weights beside the file included."""
    examples: Mapping[str, Array] = dataclasses.field(default_factory=dict[str, "Array"])
    target: str = ""
    """What an artifact was compiled for; empty for a plain model."""
    runtime: RuntimeOptions | None = None
    """How an artifact wants to be run."""

    def open(self, target: str = "onnxruntime", threads: int | None = None) -> Worker:
        """Load it in a process of its own; an artifact keeps its own settings, ``threads`` overrides both.

        Raises:
            InvalidModel: the runtime does not load it.
        """
        options = self.runtime or RuntimeOptions()
        if threads is not None:
            options = dataclasses.replace(options, threads=threads)
        name = self.target or target
        try:
            return Worker(self.file, options, name)
        except CannotRun as error:
            raise InvalidModel(f"{name} does not load '{self.label}': {error}") from error


def read_subject(text: str, scratch: Path, *, trust: bool = False) -> Subject:
    """Read a model or an artifact; ``scratch`` holds the file of a model that is none yet."""
    path = Path(text)
    if path.is_dir():
        return _read_artifact(path)
    if path.exists() and not is_program(text):
        return Subject(text, path, load_model(path), stored_bytes(path))
    captured = capture(text, trust=trust)
    file = scratch / f"{len(list(scratch.iterdir()))}.onnx"
    save_model(captured.model, file)
    return Subject(text, file, captured.model, stored_bytes(file), captured.feeds)


def _read_artifact(path: Path) -> Subject:
    if not (path / "whet.json").is_file():
        raise UsageError(f"'{path}' is a folder without whet.json, expected a model or an artifact")
    manifest = load(path).manifest
    file = path / str(manifest["model"])
    return Subject(
        label=str(path),
        file=file,
        model=load_model(file),
        bytes=find_target(str(manifest["target"])).weigh(path, list(manifest["files"])),
        target=str(manifest["target"]),
        runtime=RuntimeOptions.from_json(manifest["runtime"]),
    )
