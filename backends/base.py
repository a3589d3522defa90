"""What a target is, and how anything that was lowered is opened and run."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from whet.errors import UnsupportedTarget, UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = ["Runner", "RuntimeOptions", "Target", "find_target", "open_runner", "targets"]


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """How a model is run; stored in the artifact, so that loading it later gives the same session."""

    threads: int = 0
    """Threads inside one operator; 0 leaves it to the runtime."""
    optimization: str = "all"
    """ONNX Runtime's graph optimization level: none, basic, extended, all."""
    config: tuple[tuple[str, str], ...] = ()
    """Further session configuration entries."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.optimization not in {"none", "basic", "extended", "all"}:
            raise UsageError(
                f"optimization level is '{self.optimization}', expected none, basic, extended or all"
            )
        if self.threads < 0:
            raise UsageError(f"threads is {self.threads}, expected 0 or more")

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "threads": self.threads,
            "optimization": self.optimization,
            "config": dict(self.config),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RuntimeOptions":
        """Read what :meth:`to_json` wrote."""
        config: Mapping[str, str] = data.get("config", {})
        return cls(data["threads"], data["optimization"], tuple(sorted(config.items())))


class Runner(Protocol):
    """A loaded model."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs in the model's order; raises CannotRun."""
        ...


class Target(ABC):
    """A runtime that models are lowered to."""

    name: str

    def legalize(self) -> "tuple[Pass | Fixpoint, ...]":
        """Return the passes that bring a model into the form this runtime runs best."""
        return ()

    @abstractmethod
    def refuses(self, model: "onnx_ir.Model") -> list[str]:
        """Return the reasons why the runtime cannot take the model; empty if it can."""

    @abstractmethod
    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write the runtime's files into ``folder``; return their names."""

    @abstractmethod
    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Load what :meth:`lower` wrote (or a plain model file); raises CannotRun."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of what runs the model."""


def _onnxruntime() -> Target:
    from whet.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _reference() -> Target:
    from whet.backends.reference import Reference

    return Reference()


_MAKERS: Mapping[str, Callable[[], Target]] = {
    "onnxruntime": _onnxruntime,
    "reference": _reference,
}
"""Each imports its target when asked: a process that runs one model needs one of them."""


def targets() -> dict[str, Target]:
    """Return the targets that whet knows, by name."""
    return {name: make() for name, make in _MAKERS.items()}


def find_target(name: str) -> Target:
    """Return a target by name; raises UnsupportedTarget."""
    if name not in _MAKERS:
        raise UnsupportedTarget(f"unknown target '{name}'; known: {', '.join(_MAKERS)}")
    return _MAKERS[name]()


def open_runner(path: Path, target: str, options: RuntimeOptions) -> Runner:
    """Open a model file with ``target``, or an artifact folder with what its ``whet.json`` says."""
    manifest = path / "whet.json"
    if not manifest.is_file():
        return find_target(target).open(path, options)
    data = json.loads(manifest.read_text())
    options = RuntimeOptions.from_json(data["runtime"])
    return find_target(data["target"]).open(path / data["model"], options)
