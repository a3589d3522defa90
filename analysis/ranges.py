"""The range that each value covers on calibration data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.dataset import Batches, Feeds, leading
from whet.analysis.range_rules import entropy_range, mse_range, percentile_range
from whet.analysis.statistics import Counts, Extremes, Histogram, Statistics
from whet.passes.base import Change

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["Range", "RangeMethod", "Ranges"]

RangeMethod = Literal["extremes", "percentile", "mse", "entropy"]
_NUMBERS = 1 << 19
"""Numbers of each value that a histogram counts, spread evenly over all samples."""
_FEWEST = 256
"""But at least so many of each sample."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Smallest and largest value that a grid should hold; what lies outside is clipped."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Ranges(Analysis[Mapping[str, Range]]):
    """Find the range of the named values over all calibration batches, in one pass over them.

    ``extremes`` covers everything. ``percentile`` leaves out half of the rest at each end: 99.9 drops the lowest and
    the highest 0.05 %; at 100 it is the extremes. ``mse`` has the least expected squared error of a grid of ``bits``
    bits, ``entropy`` the least Kullback-Leibler divergence. All but the extremes rest on a histogram of about half a
    million numbers of each value (all of them, if there are fewer), evenly spaced in every sample.
    """

    names: tuple[str, ...]
    percentile: float = 100.0
    method: RangeMethod = "percentile"
    bits: int = 8
    symmetric: bool = False
    """Both ends are equal in magnitude; ``mse`` looks for the best such grid."""
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Mapping[str, Range]:
        """Return ranges by name; raises CalibrationError where a value is not finite."""
        names = tuple(dict.fromkeys(self.names))
        if self.method == "extremes" or (self.method == "percentile" and self.percentile >= 100):
            wanted = Extremes()
            bounds = Statistics(frozenset((n, wanted) for n in names)).measure(model, context)
            pairs = {n: (float((b := bounds.of(n, wanted)).low), float(b.high)) for n in names}
        else:
            counted = Histogram(per_sample=_per_sample(context.calibration))
            found = Statistics(frozenset((n, counted) for n in names)).measure(model, context)
            pairs = {n: self._choose(found.of(n, counted)) for n in names}
        return {name: self._range(*pair) for name, pair in pairs.items()}

    def _choose(self, counts: Counts) -> tuple[float, float]:
        if self.method == "percentile":
            return percentile_range(counts, self.percentile)
        steps = 2**self.bits - (2 if self.symmetric else 1)
        if self.method == "mse":
            return mse_range(counts, steps, symmetric=self.symmetric)
        return entropy_range(counts, steps)

    def _range(self, low: float, high: float) -> Range:
        if not self.symmetric:
            return Range(low, high)
        largest = max(-low, high)
        return Range(-largest, largest)


def _per_sample(batches: Sequence[Feeds]) -> int:
    """Return how many numbers of each sample to count; the same whatever the batches are."""
    if isinstance(batches, Batches):
        samples = batches.samples
    else:
        samples = sum(leading(feeds) or 1 for feeds in batches)
    return max(_FEWEST, _NUMBERS // max(samples, 1))
