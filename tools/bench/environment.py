"""What a benchmark ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import whet

__all__ = ["environment"]

_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp")
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxslim", "torch")


def environment() -> dict[str, str]:
    """Return processor, cores, instruction set extensions, memory and versions."""
    processor = _cpu_field("model name") or platform.processor() or platform.machine()
    flags = (_cpu_field("flags") or _cpu_field("Features")).split()
    return {
        "processor": processor,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
        "extensions": " ".join(name for name in _EXTENSIONS if name in flags) or "not known",
        "memory": _memory(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "whet": whet.__version__,
        **{name: _version(name) for name in _PACKAGES},
    }


def _cpu_field(name: str) -> str:
    """Return what the kernel says about the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 1e9:.0f} GB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
