"""Leave out experts that others can stand in for."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from whet.analysis.experts import Experts
from whet.errors import Mismatch, UsageError
from whet.ir.values import Array
from whet.passes.experts.algorithms.similarity import dissimilarity, representatives
from whet.passes.experts.behaviour import Behaviour, behaviour
from whet.passes.experts.copying import compared, dropped, masked, replaced
from whet.passes.experts.expert_pass import ExpertPass, Planned
from whet.passes.option import option
from whet.passes.workbench import Workbench

__all__ = ["DropExperts"]


@dataclasses.dataclass(frozen=True)
class DropExperts(ExpertPass):
    """Leave experts out whose tokens others serve alike: rows of the router go with their weights.

    Two experts are the more alike the more the router's logits for them are correlated and the more alike they
    answer the same tokens: ``d_ij = (1 - rho_ij) / 2 + ||f_i - f_j||² / (2 (||f_i||² + ||f_j||²))``, on calibration
    data. Those stay that lose least, ``sum_i n_i min over r that stay of d_ir`` with n_i how often expert i is chosen:
    one of every cluster (after STUN, Lee et al. 2024). Before anything is changed, the layer with router logits of
    minus infinity for the others and the layer without them are executed and must agree but for rounding.
    """

    proof: ClassVar[str] = "as with logits of minus infinity"

    ratio: float = option(0.25, above=0, below=1)
    """Share of the experts of each layer that goes."""
    count: int = option(0, at_least=0)
    """How many experts of each layer go; 0 leaves it to ``ratio``."""
    choice: Literal["similarity", "frequency", "random"] = "similarity"
    """Which stay: representatives, those that are chosen most often, or any."""

    def plan(self, experts: Experts, work: Workbench) -> Planned:
        """Return the layer without some experts."""
        left = self._left(experts)
        seen = behaviour(experts, work, outputs=self.choice == "similarity")
        kept = self._kept(experts, seen, left, work.context.seed)
        build = work.builder(experts.node)
        small = dropped(experts, kept, build)
        zeros = masked(experts, kept, work.builder(experts.node))
        return Planned(
            replaced(small),
            compared(zeros, small),
            tuple(zeros.build.nodes),
            f"{left} of {experts.count} experts",
            _bytes(experts, kept),
        )

    def _left(self, experts: Experts) -> int:
        """Return how many stay; the router must find as many as it picks."""
        gone = self.count or round(self.ratio * experts.count)
        left = experts.count - gone
        if left < experts.k:
            reason = (
                f"'{experts.name}' picks {experts.k} experts for every token, "
                f"without {gone} of {experts.count} only {max(left, 0)} are left"
            )
            if self.count:
                raise UsageError(f"option 'count' of pass '{self.name}': {reason}")
            raise Mismatch(reason)
        if not gone:
            raise Mismatch(f"a share of {self.ratio:g} of {experts.count} experts is none")
        return left

    def _kept(self, experts: Experts, seen: Behaviour, left: int, seed: int) -> Array:
        if self.choice == "random":
            rng = np.random.default_rng(seed)
            return np.sort(rng.permutation(experts.count)[:left])
        if self.choice == "frequency":
            return np.sort(np.argsort(-seen.counts.astype(np.int64), kind="stable")[:left])
        outputs = (
            seen.outputs if experts.table is None else seen.outputs[experts.table.astype(np.intp)]
        )
        # What is never chosen still has a place to go to: it counts, if only a little.
        mass = seen.counts.astype(np.float64) + 1e-3
        return representatives(dissimilarity(seen.logits, outputs), mass, left)


def _bytes(experts: Experts, kept: Array) -> int:
    """Return what the weights of the experts take that stay."""
    used = kept if experts.table is None else np.unique(experts.table[kept.astype(np.intp)])
    return sum(stack.array.nbytes * len(used) // experts.stored for stack in experts.stacks)
