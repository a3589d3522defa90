"""The range that each value covers on calibration data."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir

from whet.analysis.activations import observe
from whet.analysis.base import Analysis
from whet.errors import CalibrationError
from whet.ir.values import Array
from whet.passes.base import Change

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["Range", "Ranges"]

_BINS = 4096


@dataclasses.dataclass(frozen=True)
class Range:
    """Smallest and largest value, after clipping the share that the percentile leaves out."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Ranges(Analysis[Mapping[str, Range]]):
    """Measure the range of the named values over all calibration batches.

    With a ``percentile`` below 100, each end leaves out half of the rest: 99.9 drops the lowest and the highest 0.05 %,
    found in a histogram between the extremes. Batches are streamed; what is kept is two numbers or one histogram per
    value.
    """

    names: tuple[str, ...]
    percentile: float = 100.0
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Mapping[str, Range]:
        """Return ranges by name; raises CalibrationError where a value is not finite."""
        threads, batches = context.threads, context.calibration
        extremes: dict[str, Range] = {}
        for name, array in observe(model, self.names, batches, threads=threads):
            extremes[name] = _widen(extremes.get(name), array, name)
        if self.percentile >= 100:
            return extremes
        counts = {name: np.zeros(_BINS, np.int64) for name in extremes}
        for name, array in observe(model, self.names, batches, threads=threads):
            ends = (extremes[name].low, extremes[name].high)
            counts[name] += np.histogram(array.astype(np.float64), _BINS, ends)[0]
        return {name: self._clip(extremes[name], counts[name]) for name in extremes}

    def _clip(self, full: Range, counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Range:
        share = np.cumsum(counts) / max(int(counts.sum()), 1)
        tail = (100.0 - self.percentile) / 200
        first = int(np.searchsorted(share, tail, side="right"))
        last = int(np.searchsorted(share, 1 - tail, side="left"))
        width = (full.high - full.low) / _BINS
        return Range(full.low + first * width, min(full.low + (last + 1) * width, full.high))


def _widen(known: Range | None, array: Array, name: str) -> Range:
    values = array.astype(np.float32, copy=False)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise CalibrationError(f"calibration data: '{name}' inside the model is not finite on them")
    if known is None:
        return Range(low, high)
    return Range(min(low, known.low), max(high, known.high))
