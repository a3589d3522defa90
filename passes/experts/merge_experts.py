"""Let groups of experts share the weights of their average."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.coupling import Coupling
from whet.analysis.experts import Experts
from whet.analysis.experts.units import Units, find_units
from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.experts.algorithms.atoms import arrange
from whet.passes.experts.algorithms.merging import align, average, groups
from whet.passes.experts.algorithms.similarity import correlation
from whet.passes.experts.behaviour import behaviour
from whet.passes.experts.copying import compared, merged, replaced
from whet.passes.experts.expert_pass import ExpertPass, Planned
from whet.passes.option import option
from whet.passes.workbench import Workbench

__all__ = ["MergeExperts"]


@dataclasses.dataclass(frozen=True)
class MergeExperts(ExpertPass):
    """Merge experts into fewer: ``W = sum_e n_e P_e W_e / sum_e n_e`` in every group, stored once.

    The experts that are chosen most often on calibration data are dominant; each of the others joins the dominant
    one whose router logits are most correlated with its own. n_e is how often expert e is chosen, P_e the permutation
    of its hidden units that fits those of the dominant expert best (a linear assignment over all weights of a unit).
    The router goes on picking among all experts with its weights; a table behind it says whose weights are read
    (M-SMoE, Li et al. 2023). ORT's MoE operator has no place for such a table. Before anything is changed, the table
    and few weights are executed against weights that are repeated for every expert.
    """

    proof: ClassVar[str] = "as with repeated weights"

    ratio: float = option(0.25, above=0, below=1)
    """Share of the experts' weights of each layer that goes."""
    left: int = option(0, at_least=0)
    """On how many weights the experts of each layer are; 0 leaves it to ``ratio``."""
    choice: Literal["similarity", "random"] = "similarity"
    """Who joins whom: by the router's logits, or any."""
    align: bool = True
    """Bring the hidden units into the order of the dominant expert's."""

    def plan(self, experts: Experts, work: Workbench) -> Planned:
        """Return the layer with fewer weights."""
        if experts.is_operator:
            raise Mismatch(
                "the operator picks and looks up in one: experts cannot share weights in it"
            )
        if experts.table is not None:
            raise Mismatch(f"{experts.count} experts share {experts.stored} weights already")
        left = self.left or experts.count - round(self.ratio * experts.count)
        if left >= experts.count:
            raise Mismatch(f"{left} of {experts.count} experts would be left")
        units = find_units(experts, work.analyses.get(Coupling()))
        seen = behaviour(experts, work)
        table = self._table(experts, seen.logits, seen.counts, left, work.context.seed)
        arrays = self._merge(experts, units, table, seen.counts)
        repeated = {value: array[table.astype(np.intp)] for value, array in arrays.items()}
        small = merged(experts, table, arrays, work.builder(experts.node))
        wide = merged(experts, None, repeated, work.builder(experts.node))
        return Planned(
            replaced(small),
            compared(wide, small),
            tuple(wide.build.nodes),
            f"{experts.count} experts on {left} weights",
            sum(array.nbytes for array in arrays.values()),
        )

    def _table(self, experts: Experts, logits: Array, counts: Array, left: int, seed: int) -> Array:
        if self.choice == "similarity":
            return groups(correlation(logits), counts, left)
        rng = np.random.default_rng(seed)
        return groups(rng.random((experts.count, experts.count)), rng.random(experts.count), left)

    def _merge(
        self, experts: Experts, units: Units, table: Array, counts: Array
    ) -> Mapping[onnx_ir.Value, Array]:
        """Return the merged weights of every stack."""
        order = np.tile(np.arange(units.count), (experts.count, 1))
        if self.align:
            vectors = _unit_vectors(experts, units)
            for group in range(int(table.max()) + 1):
                members = np.flatnonzero(table == group)
                leader = members[np.argmax(counts[members])]
                for one in members:
                    order[one] = align(vectors[one], vectors[leader])
        found: dict[onnx_ir.Value, Array] = {}
        for stack in experts.stacks:
            array = stack.array
            if stack.value in units.places:
                array = arrange(array, *units.places[stack.value], order)
            parts = [average(array[table == g], counts[table == g]) for g in range(table.max() + 1)]
            found[stack.value] = np.stack(parts).astype(array.dtype)
        return found


def _unit_vectors(experts: Experts, units: Units) -> Array:
    """Return all weights of every unit side by side, ``[experts, units, numbers]``."""
    parts: list[Array] = []
    for stack in experts.stacks:
        if stack.value in units.places:
            axis, places = units.places[stack.value]
            taken = np.take(np.moveaxis(stack.array, axis, 1), places, 1)
            parts.append(taken.reshape(experts.stored, units.count, -1).astype(np.float64))
    return np.concatenate(parts, 2)
