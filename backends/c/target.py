"""Lower to a C99 artifact: for microcontrollers, and for whoever wants a model without a runtime."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from whet.backends.base import Runner, RuntimeOptions
from whet.backends.planned import Planned
from whet.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["C"]


class C(Planned):
    """C99 without dependencies: ``model.c``, ``model.h``, a program that checks them, a Makefile.

    Options: ``name`` is what the names of the functions begin with, ``weights=bin`` puts the weights into a file.
    """

    name = "c"
    timed: ClassVar[bool] = False
    candidates: ClassVar[tuple[str, ...]] = ("quantize-static{prefer=size}", "quantize-dynamic")
    """Formats of fewer bits are unpacked, and blocks have operators of ONNX Runtime's own: neither gains here."""
    defaults: ClassVar[Mapping[str, str]] = {"name": "model", "weights": "const"}
    marker: ClassVar[str] = "model.json"

    def check(self, key: str, value: str) -> None:
        """Refuse what cannot be written."""
        if key == "weights" and value not in {"const", "bin"}:
            raise UsageError(f"weights is '{value}', expected const or bin")
        if key == "name" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
            raise UsageError(f"name is '{value}', expected a name that C accepts")

    def write(self, model: "onnx_ir.Model", folder: Path) -> Sequence[str]:
        """Write the C; the device's compiler counts the code, its flags are in the Makefile."""
        from whet.backends.c.artifact import Settings, write

        settings = Settings(self.options["name"], self.options["weights"])
        return write(
            model, folder, settings, examples=self.examples, seed=self.seed, device=self.device
        ).files

    def load(self, folder: Path, options: RuntimeOptions) -> Runner:
        """Compile and load the C."""
        from whet.backends.c.runner import LibraryRunner

        return LibraryRunner(folder)

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
