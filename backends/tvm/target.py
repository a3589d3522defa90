"""Lower to TVM: a library of kernels made for one processor, its weights, and a loader."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.budget import parse_seconds
from whet.errors import UnsupportedTarget, UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.backends.tvm.machine import Machine
    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = ["Tvm"]

_OPTIONS = {"cpu": "", "triple": "", "features": "", "threads": "", "cc": "", "tune": ""}
_ORDER = 1e-4
"""Relative error of outputs whose sums run in another order, and whose exponentials are polynomials."""
_STEP = 2e-2
"""The same where sums are rounded to a grid."""


class Tvm(Target):
    """TVM: Relax, kernels in TIR for the sizes of this model, LLVM.

    Options: ``cpu``, ``triple`` and ``features`` are LLVM's names of another processor, ``cc`` links for it;
    ``threads`` is how many the work is divided for; ``tune`` is how long schedules are chosen by measurement.
    """

    name = "tvm"
    own_source: ClassVar[bool] = False

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        examples: Mapping[str, Array] | None = None,
        seed: int = 0,
    ) -> None:
        """Take options, and the inputs that the loader's check is to run."""
        self._options = {**_OPTIONS, **(options or {})}
        self._examples = dict(examples or {})
        self._seed = seed
        time = self._options["tune"]
        self.tuning = parse_seconds(time, "tune") if time not in ("", "off") else 0.0

    def configured(self, options: Mapping[str, str]) -> Target:
        """Return the target with options; raises UsageError."""
        for key, value in options.items():
            if key not in _OPTIONS:
                raise UsageError(
                    f"target 'tvm' has no option '{key}'; known: {', '.join(_OPTIONS)}"
                )
            if key == "threads" and not (value.isdigit() and int(value)):
                raise UsageError(f"threads is '{value}', expected 1 or more")
            if key == "tune" and value != "off":
                parse_seconds(value, "tune")
        return Tvm({**self._options, **options}, self._examples, self._seed)

    def tuned(self, time: str) -> Target:
        """Return the target with a time to tune its kernels for; raises UsageError."""
        return self.configured({"tune": time})

    def settle(
        self,
        model: "onnx_ir.Model",
        examples: Mapping[str, Array],
        sizes: Mapping[str, int],
        seed: int,
    ) -> "tuple[Target, onnx_ir.Model]":
        """Fix every size; raises UsageError for one that neither the examples nor the user give.

        Raises UnsupportedTarget where TVM is not installed.
        """
        from whet.backends.sizes import fix_sizes

        _find()
        if self.tuning:
            from whet.backends.tvm.tuning.place import refuse_elsewhere

            refuse_elsewhere(self._machine())
        return Tvm(self._options, examples, seed), fix_sizes(model, examples, sizes, self.name)

    def fixed_sizes(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return none: all are fixed."""
        return {}

    def legalize(self) -> "tuple[Pass | Fixpoint, ...]":
        """Return the exact passes: attention lifted, batch norms folded, shapes worked out."""
        from whet.passes.recipes import exact

        return (exact(),)

    def refuses(self, model: "onnx_ir.Model") -> list[str]:
        """Name what no pass removes and no emitter takes; the rest shows when the rewritten model is emitted."""
        from whet.backends.refusals import refusals

        return refusals(model)

    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write ``model.onnx``, which tools read, and the library that computes the same."""
        _find()
        from whet.backends.onnxruntime import lean
        from whet.backends.tvm.artifact import write
        from whet.backends.tvm.tuning.place import known_schedules
        from whet.ir.saving import save_model

        machine = self._machine()
        written = write(
            model,
            folder,
            machine,
            examples=self._examples,
            seed=self._seed,
            compiler=self._compiler(),
            schedules=known_schedules(machine, use=self._options["tune"] != "off"),
        )
        save_model(lean(model), folder / "model.onnx")
        kept = {"model.onnx", *written}
        more = sorted(path.name for path in folder.iterdir() if path.name not in kept)
        return ["model.onnx", *written, *more]

    def tune(self, model: "onnx_ir.Model", progress: Callable[[str], None]) -> list[str]:
        """Choose schedules by measurement; they are found in the cache when the model is lowered."""
        if not self.tuning:
            return []
        from whet.backends.facts import observe
        from whet.backends.tvm.tuning.session import Session

        facts = observe(model, self._examples, self._seed, self.name)
        session = Session(facts, self._machine(), self._compiler(), progress)
        return session.run(self.tuning)

    def measured(self, folder: Path) -> Mapping[str, Mapping[str, float]]:
        """Return kernels that do not run the usual schedule, with the milliseconds of both."""
        return dict(json.loads((folder / "model.json").read_text())["schedules"])

    def story(self, folder: Path) -> list[str]:
        """Say how many kernels run a schedule that was measured."""
        found = self.measured(folder)
        if not found:
            return []
        before, after = (sum(list(row.values())[k] for row in found.values()) for k in (0, 1))
        return [
            f"{len(found)} kernels run schedules that were measured to be faster on this machine (model.json): "
            f"{before:.3g} ms by the usual ones, {after:.3g} ms so, one call each"
        ]

    def _machine(self) -> "Machine":
        from whet.backends.tvm.machine import find_machine

        own = self._options
        threads = int(own["threads"] or os.cpu_count() or 1)
        return find_machine(own["cpu"], own["triple"], own["features"], threads)

    def _compiler(self) -> str:
        found = self._options["cc"] or next(
            filter(None, map(shutil.which, ("g++", "gcc", "cc", "clang"))), None
        )
        if found is None:
            raise UnsupportedTarget(
                "target 'tvm' links its library with a C compiler, and there is none: install gcc"
            )
        return found

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Load the library beside a model file; a file without it is lowered first."""
        from whet.backends.tvm.runner import LibraryRunner

        folder = path if path.is_dir() else path.parent
        if (folder / "model.so").is_file():
            return LibraryRunner(folder, options.threads)
        from whet.ir.files import load_model
        from whet.ir.prepare import normalize

        with tempfile.TemporaryDirectory() as scratch:
            target, model = self.settle(normalize(load_model(path)), {}, {}, 0)
            target.lower(model, Path(scratch))
            return LibraryRunner(Path(scratch), options.threads)

    def weigh(self, folder: Path, files: Sequence[str]) -> int:
        """Return the bytes of what runs: library, weights, loader."""
        needed = ("model.so", "model.npz", "model.json", "load.py")
        return sum((folder / name).stat().st_size for name in needed)

    def idle(self) -> str:
        """Return why a library made for another processor cannot be tried here."""
        if self._options["triple"]:
            return f"it is made for {self._options['triple']}"
        return ""

    def rounding(self, model: "onnx_ir.Model") -> float:
        """Return what another order of sums amounts to; with quantized activations, one step of a grid."""
        steps = {"QuantizeLinear", "DynamicQuantizeLinear"}
        return _STEP if any(node.op_type in steps for node in model.graph) else _ORDER

    def versions(self) -> dict[str, str]:
        """Return TVM's version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return {"tvm": version("apache-tvm")}
        except PackageNotFoundError:
            return {"tvm": "none"}


def _find() -> None:
    if importlib.util.find_spec("tvm") is None:
        raise UnsupportedTarget(
            "target 'tvm' needs TVM, which is not installed: pip install 'whet[tvm]'"
        )
