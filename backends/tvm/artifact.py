"""Everything that a TVM artifact consists of, as files."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from whet.backends.facts import Facts, observe
from whet.backends.planned import STEP, rounds_to_grids
from whet.backends.tvm.building import build
from whet.backends.tvm.emission import emit
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.program import header, makefile
from whet.backends.tvm.schedules import Schedules
from whet.ir.array import Array

__all__ = ["FILES", "write", "write_seen"]

FILES = (
    "model.so", "model.npz", "model.json", "load.py", "run.c", "model.h", "Makefile", "check.npz",
)  # fmt: skip
_LIMIT, _STEPS = 1e-3, 5
"""Relative error of the worst element that the stored check allows; on a grid a multiple of what is usual."""
_LOADERS = (Path(__file__).parent / "load.py", Path(__file__).parent / "run.c")


def write(
    model: onnx_ir.Model,
    folder: Path,
    machine: Machine,
    linker: str,
    *,
    examples: Mapping[str, Array],
    seed: int = 0,
    schedules: Schedules | None = None,
) -> list[str]:
    """Write a model of fixed sizes; nothing is written if it cannot be. Returns the names of the files.

    ``schedules`` say how kernels are cut, and are told which there are.

    Raises:
        UnsupportedTarget: the model, with what would help.
    """
    facts = observe(model, examples, seed, "tvm")
    write_seen(facts, folder, machine, linker, schedules or Schedules())
    return list(FILES)


def write_seen(
    facts: Facts, folder: Path, machine: Machine, linker: str, schedules: Schedules
) -> None:
    """Write a model that was seen while it ran."""
    emitted = emit(facts, machine, schedules)
    working = build(emitted.module, machine, folder / "model.so", linker, schedules)
    # np.savez takes names as keywords: a weight may be called anything but "file".
    np.savez(folder / "model.npz", allow_pickle=False, **emitted.weights)
    for loader in _LOADERS:
        shutil.copyfile(loader, folder / loader.name)
    model = facts.model
    inputs = [v for v in model.graph.inputs if v.const_value is None]
    rows = _rows(facts, inputs), _rows(facts, model.graph.outputs)
    limit = _STEPS * STEP if rounds_to_grids(model) else _LIMIT
    described = {
        "inputs": rows[0],
        "outputs": rows[1],
        "limit": limit,
        "machine": dataclasses.asdict(machine),
        "memory": {
            "weights": sum(array.nbytes for array in emitted.weights.values()),
            "inputs": sum(facts.array(v).nbytes for v in inputs),
            **dataclasses.asdict(working),
            "code": (folder / "model.so").stat().st_size,
        },
        "schedules": dict(sorted(schedules.better.items())),
    }
    (folder / "model.h").write_text(header(*rows, limit))
    (folder / "Makefile").write_text(makefile(Path(linker).name))
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n")
    given = {f"x{k}": facts.array(v) for k, v in enumerate(inputs)}
    found = {f"y{k}": a for k, a in enumerate(facts.expected)}
    np.savez(folder / "check.npz", allow_pickle=False, **given, **found)


def _rows(facts: Facts, values: Sequence[onnx_ir.Value]) -> list[dict[str, Any]]:
    arrays = [facts.array(v) for v in values]
    return [
        {"name": v.name, "dtype": a.dtype.name, "shape": list(a.shape)}
        for v, a in zip(values, arrays, strict=True)
    ]
