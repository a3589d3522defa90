"""What a target is, and how anything that was lowered is opened and run."""

import dataclasses
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from whet.backends.device import Device
from whet.errors import UnsupportedTarget, UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = [
    "Runner",
    "RuntimeOptions",
    "Target",
    "find_target",
    "open_runner",
    "targets",
    "triple_option",
]


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
    timed: ClassVar[bool] = True
    """Whether milliseconds on this machine tell what a result is worth."""
    own_source: ClassVar[bool] = True
    """Whether source and result run in the same runtime, so that passes are to blame where the result is slower."""
    candidates: ClassVar[tuple[str, ...]] = ()
    """What a search tries at every site, where not all of the usual formats can be lowered."""
    counts_memory: ClassVar[bool] = False
    """Whether RAM and flash are known before anything runs, so that they can be limited."""
    counts_flash: ClassVar[bool] = False
    """Whether the bytes that are kept can be limited, but not those of a run."""

    priced: ClassVar[str] = ""
    """The runtime whose kernels are measured while passes decide; without one they decide without milliseconds."""

    contends: ClassVar[bool] = False
    """Whether ``--target auto`` may choose it: a runtime of ordinary machines whose times are compared."""
    tuning: float = 0.0
    """Seconds for which :meth:`tune` measures."""
    lossy: str = ""
    """What the runtime itself loses on purpose, beyond rounding; such a target has a :meth:`lossless` one."""

    @property
    def spelled(self) -> str:
        """Return the target as :func:`find_target` reads it, with the options that matter when a result is opened."""
        return self.name

    @property
    def triple(self) -> str:
        """Return the kind of machine that the target's options ask for, as compilers name it; empty for any."""
        return ""

    def configured(self, options: Mapping[str, str]) -> "Target":
        """Return the target with options, as ``name{option=value}`` has them; raises UsageError."""
        if options:
            raise UsageError(f"target '{self.name}' has no option '{next(iter(options))}'")
        return self

    def on(self, device: Device) -> "Target":
        """Return the target for the device that results will run on; raises UnsupportedTarget."""
        if device.bare:
            raise UnsupportedTarget(
                f"target '{self.name}' needs an operating system, '{device.name}' ({device.isa[0]}) has none: "
                "--target c writes for it"
            )
        return self

    def tuned(self, time: str) -> "Target":
        """Return the target that tunes its kernels for a time (``10min``), or ``off``; raises UsageError."""
        raise UsageError(
            f"target '{self.name}' has no kernels to tune, --tune {time} is for --target tvm"
        )

    def lossless(self) -> "Target":
        """Return the target without what is :attr:`lossy` about it."""
        return self

    def missing(self) -> str:
        """Return why the runtime cannot be used on this machine, or an empty string."""
        return ""

    def absent(self, model: "onnx_ir.Model", sizes: Mapping[str, int]) -> str:
        """Return why the target takes no part in a choice among runtimes for a model; empty if it does."""
        return self.missing()

    def settle(
        self,
        model: "onnx_ir.Model",
        examples: Mapping[str, Array],
        sizes: Mapping[str, int],
        seed: int,
    ) -> "tuple[Target, onnx_ir.Model]":
        """Return the target and the model for what is compiled: one that plans memory fixes all sizes here."""
        return self, model

    def fixed_sizes(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return those of the user's sizes that are still to be chosen after :meth:`settle`."""
        return sizes

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

    def tune(self, model: "onnx_ir.Model", progress: Callable[[str], None]) -> list[str]:
        """Measure for :attr:`tuning` seconds how a model is best lowered; return what came of it, in words."""
        return []

    def measured(self, folder: Path) -> Mapping[str, Mapping[str, float]]:
        """Return the milliseconds that decided how kernels of what was lowered are cut: kernel, schedule."""
        return {}

    def weigh(self, folder: Path, files: Sequence[str]) -> int:
        """Return the bytes that what was lowered takes where it is kept."""
        return sum((folder / name).stat().st_size for name in files)

    def larger(self, before: int, after: int, folders: tuple[Path, Path]) -> str:
        """Return why one result takes more memory than another one, by what they weigh; empty if it does not."""
        if after <= before:
            return ""
        return f"larger: {before:,} bytes before, {after:,} after"

    def idle(self) -> str:
        """Return why nothing that was lowered can be run on this machine; empty if it can."""
        return ""

    def rounding(self, model: "onnx_ir.Model") -> float:
        """Return the relative error that a result may have because this runtime rounds otherwise than ONNX Runtime."""
        return 0.0

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return which limits of a device what was lowered breaks."""
        return []

    def story(self, folder: Path) -> list[str]:
        """Return what else there is to say about what was lowered."""
        return []

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of what runs the model."""


def _onnxruntime() -> Target:
    from whet.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _openvino() -> Target:
    from whet.backends.openvino import OpenVino

    return OpenVino()


def _ort_mobile() -> Target:
    from whet.backends.ort_mobile import OrtMobile

    return OrtMobile()


def _reference() -> Target:
    from whet.backends.reference import Reference

    return Reference()


def _c() -> Target:
    from whet.backends.c.target import C

    return C()


def _tvm() -> Target:
    from whet.backends.tvm.target import Tvm

    return Tvm()


_MAKERS: Mapping[str, Callable[[], Target]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ort-mobile": _ort_mobile,
    "reference": _reference,
    "c": _c,
    "tvm": _tvm,
}
"""Each imports its target when asked: a process that runs one model needs one of them."""


def targets() -> dict[str, Target]:
    """Return the targets that whet knows, by name."""
    return {name: make() for name, make in _MAKERS.items()}


def find_target(spelled: str) -> Target:
    """Return a target by name, or as ``name{option=value,…}``; raises UnsupportedTarget and UsageError."""
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*", spelled)
    name = found.group(1) if found else spelled
    if name == "auto":
        contenders = ", ".join(name for name, target in targets().items() if target.contends)
        raise UsageError(
            f"target 'auto' is a choice that a compile makes, expected one of {contenders}"
        )
    if found is None or name not in _MAKERS:
        raise UnsupportedTarget(f"unknown target '{name}'; known: {', '.join(_MAKERS)}")
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in (found.group(2) or "").split(","))):
        key, sign, value = part.partition("=")
        if not sign:
            raise UsageError(f"option '{part}' of target '{name}' has no value: expected {part}=…")
        options[key.strip()] = value.strip()
    return _MAKERS[name]().configured(options)


def triple_option(spelled: str) -> str:
    """Return the kind of machine that a target's options name; empty without one, and for what is no target."""
    return find_target(spelled).triple if "triple" in spelled else ""


def open_runner(path: Path, target: str, options: RuntimeOptions) -> Runner:
    """Open a model file with ``target``, or an artifact folder with what its ``whet.json`` says."""
    manifest = path / "whet.json"
    if not manifest.is_file():
        return find_target(target).open(path, options)
    data = json.loads(manifest.read_text())
    options = RuntimeOptions.from_json(data["runtime"])
    return find_target(data["target"]).open(path / data["model"], options)
