"""The analysis: groups, their families, what stays and why."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.base import Analysis
from whet.analysis.coupling.groups import Family, find_families, find_kept
from whet.analysis.coupling.rules_attention import ATTENTION
from whet.analysis.coupling.rules_elementwise import ELEMENTWISE
from whet.analysis.coupling.rules_linear import LINEAR
from whet.analysis.coupling.rules_normalization import NORMALIZATION
from whet.analysis.coupling.rules_shape import SHAPE
from whet.analysis.coupling.terms import Atoms, Vector
from whet.analysis.coupling.trace import Axes, Rule, Slot, Trace
from whet.passes.base import Change
from whet.passes.workbench import Context

__all__ = ["RULES", "Coupled", "Coupling"]

RULES: Mapping[str, Rule] = {**ELEMENTWISE, **LINEAR, **NORMALIZATION, **SHAPE, **ATTENTION}
Kept = NDArray[np.bool_]


class Coupled:
    """What is coupled in one graph."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        """Walk through the graph and collect."""
        self._trace = Trace(graph, RULES)
        self.families: list[Family] = find_families(self._trace)
        self.kept: Mapping[str, int] = find_kept(self._trace)
        """Why indices are never removed: reason -> how many elements of weights it holds."""
        self._gone: frozenset[int] = frozenset()
        self._remaining: dict[int, Kept | None] = {}

    @property
    def slots(self) -> list[Slot]:
        """Return the constants that may lose something."""
        return self._trace.slots

    def axes(self, value: onnx_ir.Value) -> Axes:
        """Return the axes of a computed value; empty where none ever changes."""
        return self._trace.values.get(value, ())

    def remaining(self, axes: Axes, gone: Collection[int]) -> tuple[Kept | None, ...]:
        """Return per axis which indices stay when groups of these atoms go; None where all do."""
        if self._gone != gone:
            self._gone, self._remaining = frozenset(gone), {}
        return tuple(None if vector is None else self._left(vector) for vector in axes)

    def emptied(self, gone: Collection[int]) -> list[list[Atoms]]:
        """Return axes that would lose every index: per index the groups that take it away."""
        vectors = {
            id(v): v
            for axes in (*self._trace.values.values(), *(slot.axes for slot in self.slots))
            for v in axes
            if v is not None
        }
        found: list[list[Atoms]] = []
        for vector in vectors.values():
            atoms = self._trace.terms.resolve(vector)
            if all(not entry.isdisjoint(gone) for entry in atoms):
                found.append(atoms)
        return found

    def _left(self, vector: Vector) -> Kept | None:
        if id(vector) not in self._remaining:
            terms, numbers = self._trace.terms, vector.tolist()
            lost = {t for t in set(numbers) if not terms.atoms(t).isdisjoint(self._gone)}
            kept = np.asarray([t not in lost for t in numbers])
            self._remaining[id(vector)] = None if kept.all() else kept
        return self._remaining[id(vector)]


@dataclasses.dataclass(frozen=True)
class Coupling(Analysis[Coupled]):
    """Find which slices of weights must be removed together."""

    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: Context) -> Coupled:
        """Return what is coupled now."""
        return Coupled(model.graph)
