"""Lower to OpenVINO, an optional runtime (``whet[openvino]``) that reads the same ONNX file, Q/DQ included."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.device import Device
from whet.errors import UnsupportedTarget, UsageError
from whet.ir.array import Array
from whet.ir.execute import CannotRun

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OpenVino"]

_OLDER = (21, 17)
"""Opsets that are tried where there is no conversion rule for an operator of a newer one."""
_ROUNDING = 1e-4
"""Relative error that outputs may have because other kernels add in another order."""
_QUANTIZED = 2e-2
"""The same where integers take part: a step of a grid, where a sum falls on the other side of a tie."""


class OpenVino(Target):
    """OpenVINO on the CPU, in float32 unless ``precision=bf16`` is asked for.

    Options: ``precision`` is f32, the file's own precision, or bf16, which is lossy and needs AMX.
    """

    name = "openvino"
    priced: ClassVar[str] = "openvino"
    counts_flash: ClassVar[bool] = True
    contends: ClassVar[bool] = True

    def __init__(self, precision: str = "f32", newest_opset: int | None = None) -> None:
        """Run in a precision."""
        self.precision = precision
        self._newest_opset = newest_opset
        self.lossy = (
            "" if precision == "f32" else "floats in bfloat16, which has 8 bits of precision"
        )

    @property
    def spelled(self) -> str:
        """Return the name, with the precision where it is not the file's own."""
        return (
            self.name if self.precision == "f32" else f"{self.name}{{precision={self.precision}}}"
        )

    def lossless(self) -> Target:
        """Return the same target without that loss."""
        return OpenVino("f32", self._newest_opset)

    def configured(self, options: Mapping[str, str]) -> Target:
        """Return the target with options; raises UsageError."""
        for key, value in options.items():
            if key != "precision":
                raise UsageError(f"target 'openvino' has no option '{key}'; known: precision")
            if value not in {"f32", "bf16"}:
                raise UsageError(f"precision is '{value}', expected f32 or bf16")
        return OpenVino(options.get("precision", self.precision), self._newest_opset)

    def on(self, device: Device) -> Target:
        """Return the target for a device; raises UnsupportedTarget where bfloat16 has no instructions."""
        super().on(device)
        if self.precision == "bf16" and "amx_bf16" not in device.isa:
            raise UnsupportedTarget(
                f"precision=bf16 needs amx_bf16, '{device.name}' has {' '.join(device.isa)}"
            )
        return OpenVino(self.precision, device.newest_opset)

    def missing(self) -> str:
        """Return why the runtime is not here."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install 'whet[openvino]'"
        return ""

    def refuses(self, model: "onnx_ir.Model") -> list[str]:
        """Name what no ONNX reader knows; the rest shows when the rewritten model is read."""
        if reason := self.missing():
            return [reason]
        known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"} | {key[0] for key in model.functions}
        foreign = {(n.domain, n.op_type) for n in model.graph.all_nodes() if n.domain not in known}
        return [
            f"{domain}.{kind}: no such operator in OpenVINO" for domain, kind in sorted(foreign)
        ]

    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write ``model.onnx``, at an older opset where OpenVINO does not know the operators of its own."""
        from whet.backends.onnxruntime import OnnxRuntime
        from whet.ir.opset_lower import lower_opset

        if reason := self.missing():
            raise UnsupportedTarget(reason)
        writer = OnnxRuntime(self._newest_opset)
        model = _without_idle_domains(model)
        files = writer.lower(model, folder)
        reason = first = _unreadable(folder / "model.onnx")
        for opset in _OLDER if reason else ():
            try:
                files = writer.lower(lower_opset(model, opset), folder)
            except UnsupportedTarget:
                continue
            reason = _unreadable(folder / "model.onnx")
            if not reason:
                break
        if reason:
            raise UnsupportedTarget(f"OpenVINO does not read it: {first}")
        return files

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Compile the file for this CPU."""
        return _Session(path, options, self.precision)

    def rounding(self, model: "onnx_ir.Model") -> float:
        """Return what other orders of sums, and of roundings to a grid, amount to."""
        grids = {"QuantizeLinear", "DynamicQuantizeLinear"}
        return _QUANTIZED if any(n.op_type in grids for n in model.graph) else _ROUNDING

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return whether the files are larger than the device's flash, with the largest tensors."""
        from whet.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime().over(folder, ram, flash)

    def versions(self) -> dict[str, str]:
        """Return OpenVINO's version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return {"openvino": version("openvino")}
        except PackageNotFoundError:
            return {"openvino": "none"}


def _without_idle_domains(model: "onnx_ir.Model") -> "onnx_ir.Model":
    """Return a copy that imports what it uses: OpenVINO reads no file that imports a domain it does not know."""
    copy = model.clone()
    used = {node.domain for node in copy.graph.all_nodes()} | {key[0] for key in copy.functions}
    for domain in [d for d in copy.graph.opset_imports if d and d not in used]:
        del copy.graph.opset_imports[domain]
    return copy


def _unreadable(path: Path) -> str:
    """Return why OpenVINO does not read a file, or an empty string."""
    try:
        _read(path)
    except Exception as error:  # its failures share no class
        return _reason(error)
    return ""


def _read(path: Path) -> Any:
    """Read an ONNX file; asked for no format, OpenVINO would try others after a failure, and print what they say."""
    frontend = importlib.import_module("openvino.frontend").FrontEndManager()
    onnx = frontend.load_by_framework("onnx")
    return onnx.convert(onnx.load(str(path)))


def _reason(error: Exception) -> str:
    """Return the lines of OpenVINO's report that name operators, or the last one."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    named = [
        line for line in lines if line.startswith(("No conversion rule", "Conversion is failed"))
    ]
    return "; ".join(named or lines[-1:])[:400] or type(error).__name__


class _Session:
    """A model that OpenVINO has compiled."""

    def __init__(self, path: Path, options: RuntimeOptions, precision: str) -> None:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            **{key: value for key, value in options.config if "." not in key},
        }
        if options.threads:
            properties["INFERENCE_NUM_THREADS"] = options.threads
        try:
            core: Any = importlib.import_module("openvino").Core()
            self._model = core.compile_model(_read(path), "CPU", properties)
            self._request = self._model.create_infer_request()
        except ModuleNotFoundError as error:
            raise CannotRun("openvino is not installed: pip install 'whet[openvino]'") from error
        except Exception as error:
            raise CannotRun(_reason(error)) from error
        self.inputs, self.outputs = _ports(path)
        self._read = {name: port for port in self._model.inputs for name in port.get_names()}
        self._places = {n: k for k, p in enumerate(self._model.outputs) for n in p.get_names()}

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Infer; inputs that nothing reads are left aside."""
        given = {
            self._read[n]: np.ascontiguousarray(a) for n, a in feeds.items() if n in self._read
        }
        try:
            found = self._request.infer(given, share_inputs=True)
            return [np.array(found[self._places[name]]) for name in self.outputs]
        except Exception as error:
            raise CannotRun(_reason(error)) from error


def _ports(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of inputs and outputs in the file's order, which OpenVINO may not keep."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(v.name for v in graph.input if v.name not in weights)
    return inputs, tuple(v.name for v in graph.output)
