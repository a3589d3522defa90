"""Analyses measure and never mutate; their results are cached until a pass changes what they depend on."""

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

if TYPE_CHECKING:
    from whet.passes.base import Change
    from whet.passes.workbench import Context

import onnx_ir

__all__ = ["Analyses", "Analysis"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Analysis(ABC, Generic[T_co]):
    """Measure something about a model; the fields are its options, equal options share one result."""

    depends: ClassVar["Change"]

    @abstractmethod
    def measure(self, model: onnx_ir.Model, context: "Context") -> T_co:
        """Return the result for the model as it is now."""


class Analyses:
    """Cache the results of analyses on one model."""

    def __init__(self, model: onnx_ir.Model, context: "Context") -> None:
        """Start empty."""
        self._model = model
        self._context = context
        self._results: dict[Analysis[object], object] = {}

    def get(self, analysis: Analysis[T]) -> T:
        """Return the result, measuring it if it is not cached."""
        if analysis not in self._results:
            self._results[analysis] = analysis.measure(self._model, self._context)
        return cast("T", self._results[analysis])

    def invalidate(self, changes: "Change") -> None:
        """Drop every result that depends on what changed."""
        self._results = {a: r for a, r in self._results.items() if not a.depends & changes}

    def rebase(self, model: onnx_ir.Model) -> None:
        """Continue on another model object; nothing carries over."""
        self._model = model
        self._results = {}
