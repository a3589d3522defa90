"""Round the weights of products and lookups to blocks, with the second moments of their inputs where there are any."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import onnx_ir

from whet.analysis.statistics import Gram, GramMatrix, Statistics
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Approximation, Blocks, Doubles, Layer
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.refinement import refine_codes
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.algorithms.selection import best
from whet.passes.workbench import Context

__all__ = ["Grams", "Method", "Rounding"]

Method = Literal["auto", "nearest", "gptq", "adaround"]
_HELD_OUT = 4
"""One batch of so many is kept for the comparison of the methods."""


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How weights are rounded."""

    bits: int
    symmetric: bool
    method: Method

    def __call__(
        self, matrix: Array, size: int, grams: "Grams | None", learned: Blocks | None = None
    ) -> tuple[str, Blocks]:
        """Return the name of the method that was best, and the blocks; ``learned`` are those that AdaRound found.

        Raises ValueError for weights that are not finite.
        """
        layer = _layer(matrix, grams)
        candidates: dict[str, Callable[[], Approximation]] = {
            "nearest": lambda: self._nearest(layer, size)
        }
        if grams is not None and self.method in ("auto", "gptq"):
            candidates["gptq"] = lambda: self._gptq(layer, size)
        if learned is not None:
            candidates["adaround"] = lambda: learned
        name, found, _ = best(layer, candidates)
        assert isinstance(found, Blocks)
        return name, found

    def nearest(self, matrix: Array, size: int, grams: "Grams | None") -> Blocks:
        """Return the blocks that other methods are compared with."""
        return self._nearest(_layer(matrix, grams), size)

    def _nearest(self, layer: Layer, size: int) -> Blocks:
        return round_to_nearest(layer, self.bits, size, symmetric=self.symmetric, full=True)

    def _gptq(self, layer: Layer, size: int) -> Blocks:
        found = gptq(layer, self.bits, size, symmetric=self.symmetric, full=True)
        return refine_codes(layer, found)


def _layer(matrix: Array, grams: "Grams | None") -> Layer:
    weights = np.asarray(matrix, np.float32)
    return Layer(weights) if grams is None else Layer(weights, grams.fit, None, grams.judge)


@dataclasses.dataclass(frozen=True)
class Grams:
    """Second moments of an input: those that weights are fit to, and those that fits are compared by."""

    fit: Doubles
    judge: Doubles | None

    @classmethod
    def measure(
        cls, model: onnx_ir.Model, names: Sequence[str], context: Context
    ) -> dict[str, "Grams"]:
        """Return those of the named values on the calibration data, with the model as it is now.

        Empty where there are no data or the model does not run.
        """
        if not context.calibration or not names:
            return {}
        batches = context.calibration
        held = max(1, len(batches) // _HELD_OUT) if len(batches) > 1 else 0
        try:
            fit = _grams(model, names, context, batches[: len(batches) - held])
            judge = _grams(model, names, context, batches[len(batches) - held :]) if held else {}
        except CannotRun:
            return {}
        return {name: cls(fit[name].matrix, judge[name].matrix if held else None) for name in names}

    @staticmethod
    def mean(found: Sequence["Grams"]) -> "Grams | None":
        """Return those of inputs that meet the same weights; None without any."""
        if len(found) < 2:
            return found[0] if found else None
        fit = np.mean([g.fit for g in found], axis=0)
        judges = [g.judge for g in found if g.judge is not None]
        return Grams(fit, np.mean(judges, axis=0) if judges else None)


def _grams(
    model: onnx_ir.Model, names: Sequence[str], context: Context, batches: Sequence[object]
) -> dict[str, GramMatrix]:
    part = dataclasses.replace(context, calibration=tuple(batches))  # type: ignore[arg-type]
    wanted = Gram(-1)
    found = Statistics(frozenset((name, wanted) for name in names)).measure(model, part)
    return {name: found.of(name, wanted) for name in names}
