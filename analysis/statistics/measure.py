"""Measure everything that was asked for, in one pass over the calibration data."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.observation import Observation
from whet.analysis.statistics.base import Accumulator, NotFinite, Statistic, check_finite
from whet.errors import CalibrationError
from whet.ir.values import Array
from whet.passes.base import Change

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["Observations", "Request", "Statistics"]

T = TypeVar("T")
_WORTH_THREADS = 1 << 22
"""Bytes from which the values of a batch are shared out to threads."""

Request = tuple[str, Statistic[Any]]
"""A value's name, and what is wanted of it."""
Accumulators = Mapping[str, Sequence[Accumulator[Any]]]


@dataclasses.dataclass(frozen=True)
class Observations:
    """What was measured."""

    found: Mapping[Request, object]

    def of(self, name: str, statistic: Statistic[T]) -> T:
        """Return a statistic that was asked for; raises KeyError for one that was not."""
        return cast("T", self.found[(name, statistic)])


@dataclasses.dataclass(frozen=True)
class Statistics(Analysis[Observations]):
    """Measure all requests over all calibration batches.

    The model runs once on every sample, with all wanted values as outputs; where these do not fit into memory
    together, batches are cut, and only where a single sample is still too large the data are gone through again for
    some of the values. What comes out does not depend on that, except for the order of float64 sums.
    """

    requests: frozenset[Request]
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Observations:
        """Return the results; raises CalibrationError where a value is not finite, or too large for memory."""
        open_: dict[Request, Accumulator[Any]] = {r: r[1].start() for r in self.requests}
        by_name: dict[str, list[Accumulator[Any]]] = {}
        for (name, _), accumulator in open_.items():
            by_name.setdefault(name, []).append(accumulator)
        observation = Observation(model, sorted(by_name), context)
        workers = min(8, context.threads or os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            for arrays in observation.runs():
                _add_all(arrays, by_name, pool, workers)
        return Observations({request: found.result() for request, found in open_.items()})


def _add_all(
    arrays: Mapping[str, Array], wanted: Accumulators, pool: ThreadPoolExecutor, workers: int
) -> None:
    """Hand every value to its accumulators; each value is in the hands of one thread."""
    if workers == 1 or sum(a.nbytes for a in arrays.values()) < _WORTH_THREADS:
        _add(arrays, list(arrays), wanted)
        return
    shares: list[list[str]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for name in sorted(arrays, key=lambda n: -arrays[n].nbytes):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += arrays[name].nbytes
    for done in [pool.submit(_add, arrays, share, wanted) for share in shares if share]:
        done.result()


def _add(arrays: Mapping[str, Array], names: Sequence[str], wanted: Accumulators) -> None:
    for name in names:
        array = arrays[name]
        if not array.size:
            continue
        try:
            if not all(accumulator.notices for accumulator in wanted[name]):
                check_finite(array)
            for accumulator in wanted[name]:
                accumulator.add(array)
        except NotFinite as error:
            raise CalibrationError(
                f"calibration data: '{name}' inside the model is not finite on them"
            ) from error
