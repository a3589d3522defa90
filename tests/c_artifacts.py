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

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-fno-strict-aliasing")

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
    command = [compiler, *STRICT, *flags, *sources, "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return program


def execute(*command: str | Path, folder: Path | None = None) -> str:
    """Run a program that must succeed; return what it says."""
    words = [str(c) for c in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def library(folders: Sequence[Path], out: Path, *flags: str) -> ctypes.CDLL:
    """Compile many models, each with a name of its own, into one library."""
    sources = [str(folder / "model.c") for folder in folders]
    command = ["gcc", *STRICT, *(flags or ("-O0",)), "-shared", "-fPIC", *sources, "-o", str(out), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
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
