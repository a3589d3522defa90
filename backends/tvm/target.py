"""Lower to TVM: a library of kernels made for one processor, its weights, and two loaders."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.device import Device, host
from whet.backends.planned import Planned
from whet.backends.triples import plain_triple, triple_of
from whet.backends.tvm.processor import agreed, find_linker
from whet.budget import parse_seconds
from whet.errors import UnsupportedTarget, UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.backends.tvm.machine import Machine

__all__ = ["Tvm"]


class Tvm(Planned):
    """TVM: Relax, kernels in TIR for the sizes of this model, LLVM.

    Options: ``cpu``, ``triple`` and ``features`` are LLVM's names of another processor, ``cc`` links for it;
    ``threads`` is how many the work is divided for. What they do not say, the device does. ``tune`` is how long
    schedules are chosen by measurement.
    """

    name = "tvm"
    own_source: ClassVar[bool] = False
    contends: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, str]] = {
        "cpu": "", "triple": "", "features": "", "threads": "", "cc": "", "tune": "",
    }  # fmt: skip
    marker: ClassVar[str] = "model.so"
    # Exponentials are polynomials, too.
    order: ClassVar[float] = 1e-4

    @property
    def triple(self) -> str:
        """Return the kind of machine that the options name."""
        return self.options["triple"]

    def check(self, key: str, value: str) -> None:
        """Refuse what no processor has."""
        if key == "threads" and not (value.isdigit() and int(value)):
            raise UsageError(f"threads is '{value}', expected 1 or more")
        if key == "triple":
            plain_triple(value)
        if key == "tune" and value != "off":
            parse_seconds(value, "tune")

    def configured(self, options: Mapping[str, str]) -> Self:
        """Return the target with options; raises UsageError."""
        made = super().configured(options)
        time = made.options["tune"]
        made.tuning = parse_seconds(time, "tune") if time not in ("", "off") else 0.0
        return made

    def on(self, device: Device) -> "Tvm":
        """Return the target for a device; raises UsageError where the options contradict it."""
        super(Planned, self).on(device)
        agreed(self.options, device)
        return super().on(device)

    def missing(self) -> str:
        """Return why TVM cannot be used on this machine."""
        if _absent():
            return _absent()
        try:
            find_linker(self.options, self.device)
        except UnsupportedTarget as error:
            return str(error)
        return ""

    def tuned(self, time: str) -> Self:
        """Return the target with a time to tune its kernels for; raises UsageError."""
        return self.configured({"tune": time})

    def settle(
        self,
        model: "onnx_ir.Model",
        examples: Mapping[str, Array],
        sizes: Mapping[str, int],
        seed: int,
    ) -> "tuple[Target, onnx_ir.Model]":
        """Fix every size; raises UsageError for one that is not known or a processor that TVM does not know.

        Raises UnsupportedTarget where TVM or the linker is not installed.
        """
        _find()
        machine = self._machine()
        find_linker(self.options, self.device)
        if self.tuning:
            from whet.backends.tvm.tuning.place import refuse_elsewhere

            refuse_elsewhere(machine)
        return super().settle(model, examples, sizes, seed)

    def write(self, model: "onnx_ir.Model", folder: Path) -> Sequence[str]:
        """Write the library, its weights, and what loads them."""
        _find()
        from whet.backends.tvm.artifact import write
        from whet.backends.tvm.tuning.place import known_schedules

        machine = self._machine()
        return write(
            model,
            folder,
            machine,
            find_linker(self.options, self.device),
            examples=self.examples,
            seed=self.seed,
            schedules=known_schedules(machine, use=self.options["tune"] != "off"),
        )

    def tune(self, model: "onnx_ir.Model", progress: Callable[[str], None]) -> list[str]:
        """Choose schedules by measurement; they are found in the cache when the model is lowered."""
        if not self.tuning:
            return []
        from whet.backends.facts import observe
        from whet.backends.tvm.tuning.session import Session

        facts = observe(model, self.examples, self.seed, self.name)
        linker = find_linker(self.options, self.device)
        return Session(facts, self._machine(), linker, progress).run(self.tuning)

    def measured(self, folder: Path) -> Mapping[str, Mapping[str, float]]:
        """Return kernels that do not run the usual schedule, with the milliseconds of both."""
        return dict(_described(folder)["schedules"])

    def load(self, folder: Path, options: RuntimeOptions) -> Runner:
        """Load the library."""
        from whet.backends.tvm.runner import LibraryRunner

        return LibraryRunner(folder, options.threads)

    def weigh(self, folder: Path, files: Sequence[str]) -> int:
        """Return the bytes of what runs: library, weights, loader."""
        needed = ("model.so", "model.npz", "model.json", "load.py")
        return sum((folder / name).stat().st_size for name in needed)

    def idle(self) -> str:
        """Return why a library that was made for another processor cannot be tried here."""
        if self.device.here and not any(self.options[k] for k in ("cpu", "triple", "features")):
            return ""
        wanted, here = triple_of(self.device), host()
        if wanted != triple_of(here):
            return f"it is made for {self.device.name} ({wanted}), this machine is {here.isa[0]}"
        if _absent():
            return _absent()
        lacking = sorted(self._machine().extensions - set(here.isa))
        return f"it uses {' and '.join(lacking)}, which this machine lacks" if lacking else ""

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return which limits of the device are broken, and what takes how much."""
        from whet.backends.onnxruntime import largest_constants

        if not (folder / "model.json").is_file():
            return []
        found = _memory(folder)
        parts = ", ".join(f"{size:,} of {what}" for what, size in found.items())
        used, kept = sum(found.values()), self.weigh(folder, ())
        broken: list[str] = []
        largest = f"the largest constants are {largest_constants(folder / 'model.onnx')}"
        if ram is not None and used > ram:
            broken.append(f"RAM is {used:,} bytes ({parts}), the budget {ram:,}; {largest}")
        if flash is not None and kept > flash:
            library = (folder / "model.so").stat().st_size
            broken.append(
                f"flash is {kept:,} bytes of files, {library:,} of them the library, the budget {flash:,}; {largest}"
            )
        return broken

    def story(self, folder: Path) -> list[str]:
        """Return what it takes of memory, and at which sizes it runs."""
        found = _memory(folder)
        parts = ", ".join(f"{size:,} of {what}" for what, size in found.items())
        sizes = ", ".join(f"{row['name']} {row['shape']}" for row in _described(folder)["inputs"])
        return [
            f"it runs at {sizes} alone",
            f"RAM: {sum(found.values()):,} bytes ({parts}), without TVM's runtime",
            *self._told(folder),
        ]

    def _told(self, folder: Path) -> list[str]:
        """Say how many kernels run a schedule that was measured."""
        found = self.measured(folder)
        if not found:
            return []
        before, after = (sum(list(row.values())[k] for row in found.values()) for k in (0, 1))
        return [
            f"{len(found)} kernels run schedules that were measured to be faster on this machine (model.json): "
            f"{before:.3g} ms by the usual ones, {after:.3g} ms so, one call each"
        ]

    def versions(self) -> dict[str, str]:
        """Return TVM's version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return {"tvm": version("apache-tvm")}
        except PackageNotFoundError:
            return {"tvm": "none"}

    def _machine(self) -> "Machine":
        from whet.backends.tvm.machine import find_machine

        return find_machine(agreed(self.options, self.device))


def _described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


def _memory(folder: Path) -> Mapping[str, int]:
    return {what: int(size) for what, size in _described(folder)["memory"].items()}


def _absent() -> str:
    found = importlib.util.find_spec("tvm")
    return "" if found else "TVM is not installed: pip install 'whet[tvm]'"


def _find() -> None:
    if _absent():
        raise UnsupportedTarget(f"target 'tvm' cannot be used: {_absent()}")
