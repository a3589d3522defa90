"""Leave out hidden units of experts, each expert its own."""

import dataclasses
import importlib.util
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.coupling import Coupled, Coupling
from whet.analysis.experts import Experts, Stack
from whet.analysis.experts.units import Units, find_units
from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.experts.algorithms.atoms import (
    arrange,
    energy_scores,
    keep,
    second_order,
    silence,
)
from whet.passes.experts.behaviour import behaviour, inner_values
from whet.passes.experts.copying import compared, replaced, restacked
from whet.passes.experts.expert_pass import ExpertPass, Planned
from whet.passes.experts.slopes import slope_products
from whet.passes.option import option
from whet.passes.proposal import Proposal
from whet.passes.sparsity.gradients import Likelihood
from whet.passes.sparsity.prune_copying import Masking, Shrinking, replacement
from whet.passes.sparsity.prune_regions import find_regions
from whet.passes.workbench import Workbench

__all__ = ["PruneExperts"]


@dataclasses.dataclass(frozen=True)
class PruneExperts(ExpertPass):
    """Leave hidden units of experts out: every expert loses as many, each those that matter least to it.

    A unit's weights in all matrices of its expert are an atomic expert. Its score is second order in output space:
    ``½ sum_t (a_tj w_jᵀ g_t)²`` over tokens t routed to the expert, with a what the unit is, w what it writes, g the
    slope of the loss by the expert's output, drawn so that its mean outer product is the Gauss-Newton matrix (HEAPr,
    Li et al. 2025, has the mean of a² and of g gᵀ apart). Without torch, and in ORT's MoE operator, all directions of
    the layer's output count alike: ``½ sum_t (p_t a_tj)² ||w_j||²`` with p the router's weight. Before anything is
    changed, the layer with zeros in place of what goes and the smaller one are executed and must agree but for
    rounding.
    """

    proof: ClassVar[str] = "as with zeros"

    ratio: float = option(0.25, above=0, below=1)
    """Share of each expert's units that goes."""
    score: Literal["second-order", "activation", "random"] = "second-order"
    """What the units that stay are highest in."""
    likelihood: Likelihood = "gaussian"
    """What the first output is: ``categorical`` where it is logits."""
    multiple: int = option(8, at_least=1)
    """Units left are a multiple of it, where there are twice as many."""

    def plan(self, experts: Experts, work: Workbench) -> Planned:
        """Return the layer with fewer units."""
        coupled = None if experts.is_operator else work.analyses.get(Coupling())
        units = find_units(experts, coupled)
        left = self._left(units.count)
        scores, how = self._scores(experts, units, work)
        order = keep(scores, left)
        what = f"{left} of {units.count} units of each expert, {how}"
        if coupled is None:
            return _in_operator(experts, units, order, left, what, work)
        return _in_graph(experts, units, order, left, what, coupled, work)

    def _left(self, count: int) -> int:
        left = count - round(self.ratio * count)
        if count >= 2 * self.multiple:
            left = max(-(-left // self.multiple), 1) * self.multiple
        if not 0 < left < count:
            raise Mismatch(
                f"a share of {self.ratio:g} of {count} units leaves {left}, a multiple of {self.multiple}"
            )
        return left

    def _scores(self, experts: Experts, units: Units, work: Workbench) -> tuple[Array, str]:
        """Return the score of every unit ``[experts, units]``, and how it was found."""
        if self.score == "random":
            rng = np.random.default_rng(work.context.seed)
            return rng.random((experts.stored, units.count)), "at random"
        has_torch = importlib.util.find_spec("torch") is not None
        if self.score == "second-order" and has_torch and not experts.is_operator:
            _, hidden = inner_values(experts)
            found = slope_products(experts, hidden, work, self.likelihood)
            return second_order(*found, experts.stored), "second order"
        seen = behaviour(experts, work)
        norms = _writing_norms(experts, units)
        energy = energy_scores(seen.hidden, seen.weights, seen.chosen, norms)
        return energy, "by activations and weights"


def _writing_norms(experts: Experts, units: Units) -> Array:
    """Return the lengths of what units write, ``[experts, units]``: of the weights that the last product reads."""
    last = _last_weight(experts)
    axis, places = units.places[last.value]
    squares = np.square(np.moveaxis(last.array, axis, 1).astype(np.float64))
    rows = squares.reshape(experts.stored, squares.shape[1], -1).sum(2)
    return np.asarray(np.sqrt(rows[:, places].sum(2)))


def _last_weight(experts: Experts) -> Stack:
    """Return the weights of the last product, which the units are multiplied with."""
    if experts.is_operator:
        return next(stack for stack in experts.stacks if stack.readers[0][1] == 4)
    nodes, hidden = inner_values(experts)
    last = next(node for node in reversed(nodes) if hidden in node.inputs)
    value = next(v for v in last.inputs if v is not hidden)
    while value is not None and (maker := value.producer()) is not None:
        for stack in experts.stacks:
            if any(node is maker for node, _ in stack.readers):
                return stack
        value = maker.inputs[0]
    raise Mismatch("what the hidden units write with is not understood")


def _small_stacks(
    experts: Experts, units: Units, order: Array, left: int
) -> dict[onnx_ir.Value, Array]:
    """Return the weights with the units that stay in front, the others cut off."""
    found: dict[onnx_ir.Value, Array] = {}
    for stack in experts.stacks:
        if stack.value in units.places:
            axis, places = units.places[stack.value]
            moved = arrange(stack.array, axis, places, order)
            found[stack.value] = np.delete(moved, places[left:].reshape(-1), axis)
    return found


def _zeroed(experts: Experts, units: Units, order: Array, left: int) -> dict[onnx_ir.Value, Array]:
    return {
        s.value: silence(s.array, *units.places[s.value], order[:, left:])
        for s in experts.stacks
        if s.value in units.places
    }


def _in_operator(
    experts: Experts, units: Units, order: Array, left: int, what: str, work: Workbench
) -> Planned:
    arrays = _small_stacks(experts, units, order, left)
    small = restacked(experts, arrays, work.builder(experts.node))
    zeros = restacked(experts, _zeroed(experts, units, order, left), work.builder(experts.node))
    return Planned(
        replaced(small),
        compared(zeros, small),
        tuple(zeros.build.nodes),
        what,
        _bytes(experts, arrays),
    )


def _bytes(experts: Experts, arrays: dict[onnx_ir.Value, Array]) -> int:
    return sum(arrays.get(stack.value, stack.array).nbytes for stack in experts.stacks)


def _in_graph(
    experts: Experts,
    units: Units,
    order: Array,
    left: int,
    what: str,
    coupled: Coupled,
    work: Workbench,
) -> Planned:
    gone = frozenset(units.atoms[left:])
    regions = find_regions(coupled, gone, work.graph)
    if len(regions) != 1:
        raise Mismatch(f"the hidden units are in {len(regions)} parts of the graph, expected one")
    zeros = Masking(coupled, gone, regions[0], work.fresh, _zeroed(experts, units, order, left))
    moved = {
        s.value: arrange(s.array, *units.places[s.value], order)
        for s in experts.stacks
        if s.value in units.places
    }
    try:
        small = Shrinking(coupled, gone, regions[0], work.fresh, moved)
    except Mismatch:
        Proposal((), (), tuple(zeros.build.nodes)).discard()
        raise
    return Planned(
        replacement(regions[0], small),
        replacement(regions[0], small, zeros),
        tuple(zeros.build.nodes),
        what,
        _bytes(experts, _small_stacks(experts, units, order, left)),
    )
