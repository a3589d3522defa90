"""Everything that a C artifact consists of, as files."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir

from whet.backends.c.check_program import main_source, makefile
from whet.backends.c.emission import emit
from whet.backends.c.header import header
from whet.backends.c.plan import Footprint, Plan, make_plan
from whet.backends.c.program import Program
from whet.backends.c.sources import Names, mathematics, name_all, source, weight_blob
from whet.backends.c.toolchain import find_toolchain
from whet.backends.device import Device, host
from whet.backends.facts import observe
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["Settings", "Written", "write"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a user can ask of the text."""

    name: str = "model"
    """What the names of the functions begin with."""
    weights: str = "const"
    """``const`` arrays in model.c, or ``bin``, one file."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written, and what it takes."""

    files: list[str]
    footprint: Footprint


def write(
    model: onnx_ir.Model,
    folder: Path,
    settings: Settings,
    *,
    examples: Mapping[str, Array],
    seed: int = 0,
    origin: str = "",
    device: Device | None = None,
) -> Written:
    """Write a model of fixed sizes; nothing is written if it cannot be. Code is counted as the ``device`` has it.

    Raises:
        UnsupportedTarget: the model, with what would help.
    """
    device = host() if device is None else device
    facts = observe(model, examples, seed)
    program = emit(facts)
    plan = make_plan(program, seed=seed)
    names = name_all(program, settings.name)
    blob = settings.weights == "bin"
    title = origin or (model.graph.name or "model")
    texts = {
        "model.c": source(program, plan, names, blob=blob, origin=title),
        "main.c": main_source(program, names, facts.feeds, facts.expected, blob=blob),
        "Makefile": makefile(
            mathematics=bool(mathematics(program)), compiler=device.compiler, flags=device.flags
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    if blob:
        (folder / "model.bin").write_bytes(weight_blob(program)[0])
    footprint = plan.footprint
    (folder / "model.h").write_text(_header(program, footprint, names, blob, title))
    footprint = _measured(footprint, folder, device)
    (folder / "model.h").write_text(_header(program, footprint, names, blob, title))
    described = _describe(program, plan, names, footprint, settings)
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n")
    files = ["model.c", "model.h", "main.c", "Makefile", "model.json"]
    return Written(files + (["model.bin"] if blob else []), footprint)


def _header(program: Program, footprint: Footprint, names: Names, blob: bool, title: str) -> str:
    return header(program, footprint, names, blob=blob, origin=title, notes=program.notes)


def _measured(footprint: Footprint, folder: Path, device: Device) -> Footprint:
    """Return the footprint with the size of the code, where a compiler for the device is at hand."""
    try:
        toolchain = find_toolchain(device.compiler)
        code = toolchain.code_bytes(folder, device.flags)
    except CannotRun as error:
        return dataclasses.replace(footprint, compiled=f"code is not counted: {error}")
    words = " ".join(("-Os", *device.flags))
    return dataclasses.replace(footprint, code=code, compiled=f"{words}, {toolchain.version}")


def _describe(
    program: Program, plan: Plan, names: Names, footprint: Footprint, settings: Settings
) -> dict[str, Any]:
    def rows(values: Any, own: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {"name": label, "argument": name, "dtype": t.dtype.name, "shape": list(t.shape)}
            for name, (label, t) in zip(own, values, strict=True)
        ]

    return {
        "function": settings.name,
        "weights": settings.weights,
        "inputs": rows(program.inputs, names.inputs),
        "outputs": rows(program.outputs, names.outputs),
        "footprint": footprint.to_json(),
        "steps": len(plan.steps),
        "libm": mathematics(program),
    }
