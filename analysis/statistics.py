"""Statistics of values inside a model on calibration data: everything that is asked for, in one pass over the data.

A :class:`Statistic` says what is wanted of one value; it starts an :class:`Accumulator`, which sees the value of each
batch once and keeps only what it needs. New statistics are new classes; nothing else changes.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import onnx_ir

from whet.analysis.activations import observe
from whet.analysis.base import Analysis
from whet.errors import CalibrationError
from whet.ir.values import Array
from whet.passes.base import Change

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = [
    "Accumulator",
    "Gram",
    "GramMatrix",
    "Observations",
    "Request",
    "Statistic",
    "Statistics",
]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Accumulator(ABC, Generic[T_co]):
    """See a value batch by batch, and say in the end what was wanted."""

    @abstractmethod
    def add(self, array: Array) -> None:
        """Take in the value of one batch; it is finite, and must not be kept."""

    @abstractmethod
    def result(self) -> T_co:
        """Return the statistic of everything that was added."""


@dataclasses.dataclass(frozen=True)
class Statistic(ABC, Generic[T_co]):
    """Say what is wanted of a value; equal statistics of one value are measured once."""

    @abstractmethod
    def start(self) -> Accumulator[T_co]:
        """Return an accumulator that has seen nothing."""


Request = tuple[str, Statistic[Any]]
"""A value's name, and what is wanted of it."""


@dataclasses.dataclass(frozen=True)
class Observations:
    """What was measured."""

    found: Mapping[Request, object]

    def of(self, name: str, statistic: Statistic[T]) -> T:
        """Return a statistic that was asked for; raises KeyError for one that was not."""
        return cast("T", self.found[(name, statistic)])


@dataclasses.dataclass(frozen=True)
class Statistics(Analysis[Observations]):
    """Measure all requests over all calibration batches."""

    requests: frozenset[Request]
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Observations:
        """Return the results; raises CalibrationError where a value is not finite."""
        open_: dict[Request, Accumulator[Any]] = {r: r[1].start() for r in self.requests}
        by_name: dict[str, list[Accumulator[Any]]] = {}
        for (name, _), accumulator in open_.items():
            by_name.setdefault(name, []).append(accumulator)
        names = sorted(by_name)
        for name, array in observe(model, names, context.calibration, threads=context.threads):
            if not np.isfinite(array).all():
                raise CalibrationError(
                    f"calibration data: '{name}' inside the model is not finite on them"
                )
            for accumulator in by_name[name]:
                accumulator.add(array)
        return Observations({request: found.result() for request, found in open_.items()})


@dataclasses.dataclass(frozen=True)
class GramMatrix:
    """Mean of x xᵀ over ``rows`` vectors x, in float64, ``[size, size]``."""

    matrix: Doubles
    rows: int


@dataclasses.dataclass(frozen=True)
class Gram(Statistic[GramMatrix]):
    """The Gram matrix of the vectors along an axis; all other axes count samples."""

    axis: int = -1

    def start(self) -> "Accumulator[GramMatrix]":
        """Return a sum of outer products."""
        return _GramSum(self.axis)


class _GramSum(Accumulator[GramMatrix]):
    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._total: Doubles | None = None
        self._rows = 0

    def add(self, array: Array) -> None:
        rows = np.moveaxis(array, self._axis, -1).reshape(-1, array.shape[self._axis])
        exact: Doubles = rows.astype(np.float64)
        product: Doubles = exact.T @ exact
        self._total = product if self._total is None else self._total + product
        self._rows += len(rows)

    def result(self) -> GramMatrix:
        if self._total is None:
            raise CalibrationError("calibration data: no batch was seen")
        return GramMatrix(self._total / max(self._rows, 1), self._rows)
