"""Compile generated C in tests: alone, many at a time, with sanitizers, for other machines."""

import ctypes
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from whet.backends.c.artifact import Settings, write
from whet.backends.c.plan import Footprint
from whet.ir.prepare import normalize

STRICT = (
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pedantic",
    "-Wconversion",
    "-fno-strict-aliasing",
)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc is installed")


def lower(
    model: onnx.ModelProto | onnx_ir.Model,
    folder: Path,
    feeds: Mapping[str, np.ndarray] | None = None,
    **settings: str,
) -> Footprint:
    """Write the C of a model; its inputs are ``feeds``, or drawn."""
    if isinstance(model, onnx.ModelProto):
        model = onnx_ir.from_proto(model)
    folder.mkdir(parents=True, exist_ok=True)
    written = write(normalize(model), folder, Settings(**settings), examples=feeds or {})
    return written.footprint


def build(folder: Path, *flags: str, compiler: str = "gcc", out: str = "check") -> Path:
    """Compile main.c and model.c without a warning."""
    program = folder / out
    sources = [str(folder / "main.c"), str(folder / "model.c")]
    execute(compiler, *STRICT, *flags, *sources, "-o", program, "-lm")
    return program


def execute(*command: str | Path, folder: Path | None = None) -> str:
    """Run a program that must succeed; return what it says."""
    words = [str(c) for c in command]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=folder, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def library(folders: Sequence[Path], out: Path, *flags: str) -> ctypes.CDLL:
    """Compile many models, each with a name of its own, into one library."""
    sources = [str(folder / "model.c") for folder in folders]
    level = flags or ("-O0",)
    execute("gcc", *STRICT, *level, "-shared", "-fPIC", *sources, "-o", out, "-lm")
    return ctypes.CDLL(str(out))


def run(loaded: ctypes.CDLL, folder: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run one model of a library."""
    plan: dict[str, Any] = json.loads((folder / "model.json").read_text())
    given = []
    for row in plan["inputs"]:
        array = np.ascontiguousarray(feeds[row["name"]])
        assert array.dtype.name == row["dtype"]
        assert list(feeds[row["name"]].shape) == row["shape"]
        given.append(array)
    results = [np.empty(o["shape"], np.dtype(o["dtype"])) for o in plan["outputs"]]
    call = getattr(loaded, f"{plan['function']}_run")
    error = call(*(ctypes.c_void_p(a.ctypes.data) for a in (*given, *results)))
    assert error == 0
    return results


def declared(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], kept: int) -> onnx.ModelProto:
    """Return a copy in which all inputs but the first few are constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in list(copy.graph.input)[kept:]:
        copy.graph.input.remove(value)
        copy.graph.initializer.append(onnx.numpy_helper.from_array(feeds[value.name], value.name))
    return copy


CORTEX = {
    "cortex-m3": ("mps2-an385", ("-mcpu=cortex-m3",)),
    "cortex-m4": ("mps2-an386", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
}
"""Processor -> QEMU's board and the compiler's flags."""
_CORTEX_FILES = Path(__file__).parent / "backends" / "c" / "cortex_m"


def run_on_cortex(folder: Path, processor: str) -> str:
    """Cross-compile the check program and run it under QEMU, or skip with the reason."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(
                f"{tool} is not installed (apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)"
            )
    board, flags = CORTEX[processor]
    start = (
        str(_CORTEX_FILES / "start.c"),
        "--specs=rdimon.specs",
        "-T",
        str(_CORTEX_FILES / "mps2.ld"),
    )
    program = build(
        folder,
        "-O2",
        "-mthumb",
        *flags,
        *start,
        compiler="arm-none-eabi-gcc",
        out=f"{processor}.elf",
    )
    machine = ("qemu-system-arm", "-M", board, "-nographic", "-kernel", program)
    return execute(*machine, "-semihosting-config", "enable=on,target=native")


def run_on_aarch64(folder: Path) -> str:
    """Cross-compile the check program and run it under QEMU, or skip with the reason."""
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(
                f"{tool} is not installed (apt-get install gcc-aarch64-linux-gnu qemu-user)"
            )
    program = build(folder, "-O2", "-static", compiler="aarch64-linux-gnu-gcc", out="aarch64")
    return execute("qemu-aarch64", program)
