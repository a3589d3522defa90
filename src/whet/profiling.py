"""Profile a source and what was made of it, operator by operator."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from whet.analysis.kernel_prices import KernelPrices
from whet.analysis.machine_peak import measure_peak
from whet.backends.base import RuntimeOptions
from whet.backends.operator_times import operator_times
from whet.ir.values import Array
from whet.report import Profile

__all__ = ["profile"]


def profile(
    paths: tuple[Path | None, Path],
    feeds: Mapping[str, Array],
    runtime: RuntimeOptions,
    binding: Mapping[str, int],
) -> Profile:
    """Return the times of all operators of the source, if it is there, and of the result, on the same inputs.

    Each runs in a process of its own; raises CannotRun. What the machine can do at most is measured once and kept.
    """
    before, after = ([] if p is None else operator_times(p, runtime, feeds) for p in paths)
    with KernelPrices(runtime, version("onnxruntime")) as prices:
        return Profile(before, after, measure_peak(prices), dict(binding))
