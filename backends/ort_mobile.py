"""Lower to ONNX Runtime's own format, for builds of it that read nothing else: phones, and whatever is small."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from whet.backends.base import Runner, RuntimeOptions
from whet.backends.device import Device, host
from whet.backends.onnxruntime import OnnxRuntime, largest_constants
from whet.backends.ort_convert import convert
from whet.errors import UnsupportedTarget
from whet.ir.execute import CannotRun

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OrtMobile"]

_FILE = "model.ort"
_CONFIGS = {"required_operators.config": False, "required_operators_and_types.config": True}
"""What a build of ONNX Runtime with nothing else needs (``--include_ops_by_config``), the second with types."""
_LARGEST = 1 << 31
"""Bytes that a flatbuffer can hold."""


class OrtMobile(OnnxRuntime):
    """``model.ort``, which a minimal build of ONNX Runtime reads, and the lists of operators to build it with.

    ONNX Runtime optimizes the graph once, here, and not when it is loaded ("fixed" in its words): a minimal build has
    no optimizers. All levels are applied but the layout that only this kind of processor has.
    """

    name = "ort-mobile"
    contends: ClassVar[bool] = False

    def __init__(self, newest_opset: int | None = None, device: Device | None = None) -> None:
        """Lower for a device, this machine by default."""
        super().__init__(newest_opset)
        self._device = host() if device is None else device

    def on(self, device: Device) -> "OrtMobile":
        """Return the target for a device; raises UnsupportedTarget."""
        super().on(device)
        return OrtMobile(device.newest_opset, device)

    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write ``model.onnx``, which tools read, the same as ``model.ort``, and what a build of the runtime needs."""
        from whet.ir.values import weight_bytes

        if (size := weight_bytes(model)) >= _LARGEST:
            raise UnsupportedTarget(
                f"weights take {size:,} bytes, a file in ONNX Runtime's format holds less than {_LARGEST:,}"
            )
        super().lower(model, folder)
        try:
            convert(folder / "model.onnx", folder / _FILE, signed=_signed(self._device))
        except CannotRun as error:
            raise UnsupportedTarget(f"ONNX Runtime does not convert it: {error}") from error
        for name, types in _CONFIGS.items():
            (folder / name).write_text(required_operators(folder / _FILE, types=types))
        rest = sorted(path.name for path in folder.iterdir() if path.name != "model.onnx")
        return ["model.onnx", *rest]

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Load ``model.ort`` beside a model file; a file without it is converted first."""
        beside = path.with_name(_FILE)
        if beside.is_file():
            return super().open(beside, options)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / _FILE
            convert(path, made, signed=_signed(self._device))
            return super().open(made, options)

    def weigh(self, folder: Path, files: Sequence[str]) -> int:
        """Return the bytes of ``model.ort``: the rest stays at home."""
        return (folder / _FILE).stat().st_size

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return whether ``model.ort`` is larger than the device's flash, with the largest tensors."""
        path = folder / _FILE
        if flash is None or not path.is_file() or path.stat().st_size <= flash:
            return []
        return [
            f"flash is {path.stat().st_size:,} bytes of {_FILE}, the budget {flash:,}; the largest constants are "
            f"{largest_constants(folder / 'model.onnx')}"
        ]

    def story(self, folder: Path) -> list[str]:
        """Return what a build of ONNX Runtime for this model has to contain."""
        lines = (folder / next(iter(_CONFIGS))).read_text().splitlines()
        kinds = sum(len(line.split(";")[2].split(",")) for line in lines)
        return [
            f"{_FILE} needs {kinds} operators of {len(lines)} operator sets; a build of ONNX Runtime with no others: "
            f"--minimal_build --include_ops_by_config {next(iter(_CONFIGS))}"
        ]


def _signed(device: Device) -> bool:
    """Tell whether a processor has products of int8 with int8."""
    return device.isa[0] in {"aarch64", "arm64", "armv7l"}


def required_operators(path: Path, *, types: bool) -> str:
    """Return the operators that a file in ONNX Runtime's format needs, one line for each operator set."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file to be closed later
        out = Path(scratch) / "operators.config"
        create_config_from_models([path], out, types)
        lines = out.read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))  # it names our folder
