"""Lower to a C99 artifact: for microcontrollers, and for whoever wants a model without a runtime."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.device import Device
from whet.errors import UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = ["C"]

_OPTIONS = {"name": "model", "weights": "const"}
_STEP = 2e-2
"""Relative error of outputs that sums of integers, rounded once, may have against ONNX Runtime's of floats."""


class C(Target):
    """C99 without dependencies: ``model.c``, ``model.h``, a program that checks them, a Makefile.

    Options: ``name`` is what the names of the functions begin with, ``weights=bin`` puts the weights into a file.
    """

    name = "c"
    timed: ClassVar[bool] = False
    counts_memory: ClassVar[bool] = True
    candidates: ClassVar[tuple[str, ...]] = ("quantize-static{prefer=size}", "quantize-dynamic")
    """Formats of fewer bits are unpacked, and blocks have operators of ONNX Runtime's own: neither gains here."""

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        examples: Mapping[str, Array] | None = None,
        seed: int = 0,
        device: Device | None = None,
    ) -> None:
        """Take options, the inputs that the generated program is to run, and the device."""
        self._options = {**_OPTIONS, **(options or {})}
        self._examples = dict(examples or {})
        self._seed = seed
        self._device = device

    def configured(self, options: Mapping[str, str]) -> Target:
        """Return the target with options; raises UsageError."""
        for key, value in options.items():
            if key not in _OPTIONS:
                raise UsageError(f"target 'c' has no option '{key}'; known: {', '.join(_OPTIONS)}")
            if key == "weights" and value not in {"const", "bin"}:
                raise UsageError(f"weights is '{value}', expected const or bin")
            if key == "name" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
                raise UsageError(f"name is '{value}', expected a name that C accepts")
        return C({**self._options, **options}, self._examples, self._seed, self._device)

    def on(self, device: Device) -> Target:
        """Return the target for a device: its compiler counts the code, its flags are in the Makefile."""
        return C(self._options, self._examples, self._seed, device)

    def settle(
        self,
        model: "onnx_ir.Model",
        examples: Mapping[str, Array],
        sizes: Mapping[str, int],
        seed: int,
    ) -> "tuple[Target, onnx_ir.Model]":
        """Fix every size; raises UsageError for one that neither the examples nor the user give."""
        from whet.backends.sizes import fix_sizes

        return C(self._options, examples, seed, self._device), fix_sizes(model, examples, sizes)

    def fixed_sizes(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return none: all are fixed."""
        return {}

    def legalize(self) -> "tuple[Pass | Fixpoint, ...]":
        """Return the exact passes: batch norms folded, functions in one spelling, shapes worked out."""
        from whet.passes.recipes import exact

        return (exact(),)

    def refuses(self, model: "onnx_ir.Model") -> list[str]:
        """Name what no pass removes and no emitter takes; the rest shows when the rewritten model is emitted."""
        from whet.backends.refusals import refusals

        return refusals(model)

    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write ``model.onnx``, which tools read, and the C that computes the same."""
        from whet.backends.c.artifact import Settings, write
        from whet.backends.onnxruntime import lean
        from whet.ir.saving import save_model

        settings = Settings(self._options["name"], self._options["weights"])
        written = write(
            model, folder, settings, examples=self._examples, seed=self._seed, device=self._device
        )
        save_model(lean(model), folder / "model.onnx")
        kept = {"model.onnx", *written.files}
        more = sorted(path.name for path in folder.iterdir() if path.name not in kept)
        return ["model.onnx", *written.files, *more]

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Compile and load the C beside a model file; a file without it is lowered first."""
        from whet.backends.c.runner import LibraryRunner

        folder = path if path.is_dir() else path.parent
        if (folder / "model.json").is_file():
            return LibraryRunner(folder)
        from whet.ir.files import load_model
        from whet.ir.prepare import normalize

        with tempfile.TemporaryDirectory() as scratch:
            target, model = self.settle(normalize(load_model(path)), {}, {}, 0)
            target.lower(model, Path(scratch))
            return LibraryRunner(Path(scratch))

    def weigh(self, folder: Path, files: Sequence[str]) -> int:
        """Return the bytes of flash: constants, and code where it was measured."""
        found = _footprint(folder)
        return int(found["constants"]) + int(found["code"] or 0)

    def larger(self, before: int, after: int, folders: tuple[Path, Path]) -> str:
        """Return why a result takes more flash, or more RAM than it saves flash."""
        if after > before:
            return f"more flash: {before:,} bytes before, {after:,} after"
        ram = [int(_footprint(folder)["arena"]) for folder in folders]
        if ram[1] - ram[0] > before - after:
            return f"more RAM than it saves flash: {ram[0]:,} bytes before, {ram[1]:,} after"
        return ""

    def idle(self) -> str:
        """Return why there is no compiler to try the result with."""
        from whet.backends.c.toolchain import CompilerMissing, find_toolchain

        try:
            find_toolchain()
        except CompilerMissing as error:
            return str(error)
        return ""

    def rounding(self, model: "onnx_ir.Model") -> float:
        """Return what one step of a grid amounts to, for models with quantized activations."""
        steps = {"QuantizeLinear", "DynamicQuantizeLinear"}
        return _STEP if any(node.op_type in steps for node in model.graph) else 0.0

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return which limits of the device are broken, with the largest tensors."""
        from whet.backends.c.plan import Footprint

        if not (folder / "model.json").is_file():
            return []
        found = _footprint(folder)
        fields = {f.name: found[f.name] for f in dataclasses.fields(Footprint)}
        return Footprint(**fields).over(ram, flash)

    def story(self, folder: Path) -> list[str]:
        """Return what it takes of a device."""
        found = _footprint(folder)
        share = found["arena"] / found["bound"] if found["bound"] else 1.0
        code = f" and {found['code']:,} of code ({found['compiled']})" if found["code"] else ""
        if not found["code"] and found["compiled"]:
            code = f" ({found['compiled']})"
        return [
            f"flash: {found['constants']:,} bytes of constants{code}; RAM: {found['arena']:,} bytes of arena, "
            f"{share:.3f} of the largest set of tensors that are there together"
        ]

    def versions(self) -> dict[str, str]:
        """Return the compiler that results are tried with."""
        from whet.backends.c.toolchain import CompilerMissing, find_toolchain

        try:
            return {"cc": find_toolchain().version}
        except CompilerMissing:
            return {"cc": "none"}


def _footprint(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())["footprint"]
    return found
