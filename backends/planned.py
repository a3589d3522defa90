"""Targets that fix every size and plan all memory when a model is compiled: what C and TVM share."""

import copy
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.device import Device, host
from whet.errors import UsageError
from whet.ir.array import Array

if TYPE_CHECKING:
    import onnx_ir

    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = ["STEP", "Planned", "rounds_to_grids"]

STEP = 2e-2
"""Relative error of outputs whose sums are rounded to a grid, against ONNX Runtime's of floats."""


class Planned(Target):
    """A target with files of its own beside ``model.onnx``, made for the sizes of one model and for one device."""

    counts_memory: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, str]]
    """What it can be told, and what holds if it is not."""
    marker: ClassVar[str]
    """A file that folders have which were lowered to it."""
    order: ClassVar[float] = 0.0
    """Relative error of outputs whose sums run in another order than ONNX Runtime's."""

    def __init__(self) -> None:
        """Begin with the defaults, on this machine, without examples."""
        self.options: Mapping[str, str] = dict(self.defaults)
        self.examples: Mapping[str, Array] = {}
        """Inputs that the generated check is to run."""
        self.seed = 0
        self.device: Device = host()

    @abstractmethod
    def check(self, key: str, value: str) -> None:
        """Raise UsageError if an option cannot be that."""

    @abstractmethod
    def write(self, model: "onnx_ir.Model", folder: Path) -> Sequence[str]:
        """Write everything but ``model.onnx``; return the names of the files."""

    @abstractmethod
    def load(self, folder: Path, options: RuntimeOptions) -> Runner:
        """Open what :meth:`write` wrote; raises CannotRun."""

    def configured(self, options: Mapping[str, str]) -> Self:
        """Return the target with options; raises UsageError."""
        for key, value in options.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults)
                raise UsageError(f"target '{self.name}' has no option '{key}'; known: {known}")
            self.check(key, value)
        made = copy.copy(self)
        made.options = {**self.options, **options}
        return made

    def on(self, device: Device) -> Self:
        """Return the target for a device."""
        made = copy.copy(self)
        made.device = device
        return made

    def absent(self, model: "onnx_ir.Model", sizes: Mapping[str, int]) -> str:
        """Return the sizes that nobody fixed: those of an example are no wish to run at no others."""
        from whet.ir.bindings import symbols

        free = [name for name in symbols(model) if name not in sizes]
        if missing := self.missing():
            return missing
        if not free:
            return ""
        wanted = " ".join(f"--bind {name}=…" for name in free)
        return (
            f"it runs at the sizes that it was compiled for, and the model leaves {', '.join(map(repr, free))} open: "
            f"{wanted} fixes them"
        )

    def settle(
        self,
        model: "onnx_ir.Model",
        examples: Mapping[str, Array],
        sizes: Mapping[str, int],
        seed: int,
    ) -> "tuple[Target, onnx_ir.Model]":
        """Fix every size; raises UsageError for one that neither the examples nor the user give."""
        from whet.backends.sizes import fix_sizes

        made = copy.copy(self)
        made.examples, made.seed = dict(examples), seed
        return made, fix_sizes(model, examples, sizes, self.name)

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
        """Write ``model.onnx``, which tools read, and what computes the same."""
        from whet.backends.onnxruntime import lean
        from whet.ir.saving import save_model

        written = self.write(model, folder)
        save_model(lean(model), folder / "model.onnx")
        kept = {"model.onnx", *written}
        more = sorted(path.name for path in folder.iterdir() if path.name not in kept)
        return ["model.onnx", *written, *more]

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Load what lies beside a model file; a file with nothing beside it is lowered first."""
        from whet.ir.files import load_model
        from whet.ir.prepare import normalize

        folder = path if path.is_dir() else path.parent
        if (folder / self.marker).is_file():
            return self.load(folder, options)
        with tempfile.TemporaryDirectory() as scratch:
            target, model = self.settle(normalize(load_model(path)), {}, {}, 0)
            target.lower(model, Path(scratch))
            return self.load(Path(scratch), options)

    def rounding(self, model: "onnx_ir.Model") -> float:
        """Return what another order of sums amounts to, or one step of a grid where activations are quantized."""
        return STEP if rounds_to_grids(model) else self.order


def rounds_to_grids(model: "onnx_ir.Model") -> bool:
    """Tell whether activations are quantized: then another order of sums may end on the next code."""
    steps = {"QuantizeLinear", "DynamicQuantizeLinear"}
    return any(node.op_type in steps for node in model.graph)
