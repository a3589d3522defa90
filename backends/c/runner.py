"""Run a C artifact on this machine: compiled by the machine's compiler, loaded into this process."""

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.backends.c.toolchain import find_toolchain
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["LibraryRunner"]


class LibraryRunner:
    """The function of one artifact, which ``model.json`` describes."""

    def __init__(self, folder: Path) -> None:
        """Compile what is in a folder and load it; raises CannotRun."""
        try:
            plan: dict[str, Any] = json.loads((folder / "model.json").read_text())
        except (OSError, ValueError) as error:
            raise CannotRun(f"'{folder}' holds no C artifact: {error}") from error
        path = find_toolchain().library(folder)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise CannotRun(f"the compiled model cannot be loaded: {error}") from error
        self._run = getattr(library, f"{plan['function']}_run")
        self._run.restype = ctypes.c_int
        self._inputs: list[dict[str, Any]] = plan["inputs"]
        self._outputs: list[dict[str, Any]] = plan["outputs"]
        self._weights: Array = np.zeros(0, np.uint8)
        if plan["weights"] == "bin":
            self._weights = _aligned((folder / "model.bin").read_bytes())
            load = getattr(library, f"{plan['function']}_weights")
            load.argtypes = [ctypes.c_void_p]
            load(self._weights.ctypes.data)
        self.inputs: tuple[str, ...] = tuple(i["name"] for i in self._inputs)
        self.outputs: tuple[str, ...] = tuple(o["name"] for o in self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; raises CannotRun for inputs of other sizes or types, and for indices out of range."""
        given = [self._given(i, feeds) for i in self._inputs]
        results = [np.empty(o["shape"], np.dtype(o["dtype"])) for o in self._outputs]
        error = self._run(*(ctypes.c_void_p(a.ctypes.data) for a in (*given, *results)))
        if error:
            raise CannotRun(f"the run failed with error {error}: an index is out of range")
        return list(results)

    @staticmethod
    def _given(described: Mapping[str, Any], feeds: Mapping[str, Array]) -> Array:
        name = described["name"]
        if name not in feeds:
            raise CannotRun(f"input '{name}' is missing")
        array = np.ascontiguousarray(feeds[name])
        if list(feeds[name].shape) != described["shape"] or array.dtype.name != described["dtype"]:
            raise CannotRun(
                f"input '{name}' is {array.dtype} {list(feeds[name].shape)}, "
                f"compiled for {described['dtype']} {described['shape']}"
            )
        return array


def _aligned(data: bytes) -> Array:
    """Return bytes at a multiple of 8."""
    room = np.zeros(-(-len(data) // 8), np.int64).view(np.uint8)[: len(data)]
    room[:] = np.frombuffer(data, np.uint8)
    return room
