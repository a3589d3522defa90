"""Statistics of values inside a model on calibration data: everything that is asked for, in one pass over the data.

A :class:`Statistic` says what is wanted of one value; it starts an :class:`Accumulator`, which sees the value of each
batch once and keeps only what it needs. New statistics are new classes; nothing else changes.
"""

from whet.analysis.statistics.base import Accumulator, NotFinite, Statistic
from whet.analysis.statistics.extremes import Bounds, Extremes, MaxMagnitude
from whet.analysis.statistics.grams import Gram, GramMatrix
from whet.analysis.statistics.histograms import Counts, Histogram
from whet.analysis.statistics.measure import Observations, Request, Statistics
from whet.analysis.statistics.moments import Moments, Spread
from whet.analysis.statistics.patches import PatchGram

__all__ = [
    "Accumulator", "Bounds", "Counts", "Extremes", "Gram", "GramMatrix", "Histogram", "MaxMagnitude", "Moments",
    "NotFinite", "Observations", "PatchGram", "Request", "Spread", "Statistic", "Statistics",
]  # fmt: skip
