"""What this machine and this installation can do: runtimes, extras, vector units, threads, memory."""

import dataclasses
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import whet
from whet.analysis.kernel_prices import cache_folder
from whet.backends.base import targets
from whet.backends.device import host
from whet.passes.registry import all_passes

__all__ = ["Environment", "look_around"]

_EXTRAS = {
    "torch": (
        "torch",
        "PyTorch modules, curvature, learned rounding, predicted losses of a search",
    ),
    "jinja2": ("report", "report.html"),
    "matplotlib": ("report", "report.html"),
    "distributed": ("dask", "sweeps on several machines"),
    "tvm": ("tvm", "the compiler TVM"),
    "openvino": ("openvino", "the target openvino"),
}
"""Package -> the extra that brings it, and what it is for."""
_CORE = ("numpy", "scipy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "rich", "typer")


@dataclasses.dataclass(frozen=True)
class Environment:
    """What was found."""

    whet: str
    python: str
    system: str
    instruction_sets: tuple[str, ...]
    """Architecture, then the vector extensions that integer kernels depend on."""
    saturates: bool
    """Products of uint8 and int8 add pairs in 16 bits here, where they can overflow."""
    cores: int
    usable_cores: int
    """That this process may run on."""
    memory: int
    available_memory: int
    """Bytes; 0 where the system does not say."""
    packages: Mapping[str, str | None]
    """Version, or None where it is missing."""
    missing: Mapping[str, str]
    """Package that is missing -> what it is for, and how to get it."""
    targets: Mapping[str, Mapping[str, str]]
    """Runtime that is installed -> versions of what it is made of."""
    passes: int
    cache: str
    cache_writable: bool


def look_around() -> Environment:
    """Look at the installation and the machine; measures nothing."""
    memory = _memory()
    packages = {name: _version(name) for name in (*_CORE, *_EXTRAS)}
    return Environment(
        whet=whet.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()} {sys.executable}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        instruction_sets=host().isa,
        saturates=host().saturates,
        cores=os.cpu_count() or 1,
        usable_cores=_usable(),
        memory=memory.get("MemTotal", 0),
        available_memory=memory.get("MemAvailable", 0),
        packages=packages,
        missing={
            name: f"for {purpose}: pip install 'whet[{extra}]'"
            for name, (extra, purpose) in _EXTRAS.items()
            if find_spec(name) is None
        },
        targets={
            name: target.versions() for name, target in targets().items() if not target.missing()
        },
        passes=len(all_passes()),
        cache=str(cache_folder()),
        cache_writable=_writable(cache_folder()),
    )


def _version(name: str) -> str | None:
    try:
        return version("apache-tvm" if name == "tvm" else name)
    except PackageNotFoundError:
        return None


def _usable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> dict[str, int]:
    """Return what the kernel says about memory, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
    return {name: int(rest.split()[0]) * 1024 for name, rest in pairs}


def _writable(folder: Path) -> bool:
    """Tell whether measurements can be kept: the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
