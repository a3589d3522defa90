"""Remove channels, heads and hidden units."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import onnx_ir

from whet.analysis.activations import first_samples, observe
from whet.analysis.base import Analysis
from whet.analysis.coupling import Coupled, Coupling, Family, Kind
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, is_constant, is_op
from whet.passes.base import Change, Damage, Failure, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.proof import Prover, VerdictKind, save_reproducer
from whet.passes.proposal import Proposal
from whet.passes.sparsity.prune_choice import choose, order_steps
from whet.passes.sparsity.prune_copying import Masking, Shrinking, replacement
from whet.passes.sparsity.prune_regions import Region, find_regions
from whet.passes.sparsity.prune_repair import Pruned, repair
from whet.passes.sparsity.prune_scores import Score, scores
from whet.passes.sparsity.prune_weights import LAYERS, costs
from whet.passes.workbench import Workbench

__all__ = ["PruneStructure"]

_KINDS = {kind.value.replace(" ", "-"): kind for kind in Kind}


@dataclasses.dataclass(frozen=True)
class PruneStructure(Pass):
    """Remove whole channels, heads and hidden units, wherever they are written and read.

    What must go together is found on the graph (``analysis/coupling``). Groups go in the order of score per cost until
    ``ratio`` of the layers' cost is saved. Before anything is changed, the model with zeros in place of what goes and
    the smaller one are executed and must agree but for rounding. Then the layers are fitted, one after the other, to
    the outputs that they had: ``W = Y X' (X X' + λ I)⁻¹`` with X what is left of their inputs, kept where that lowers
    the error on data held out (He et al. 2017, Luo et al. 2017). Scores: ``magnitude``, the share of the weights'
    energy; ``activation``, the share of the energy that layers get from a group; ``taylor``, the squared slope of the
    loss by a gate on it (Molchanov et al. 2019).
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True
    explains: ClassVar[bool] = True
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Coupling,)

    ratio: float = option(0.25, above=0, below=1)
    """Share of the layers' cost to save."""
    cost: Literal["parameters", "macs", "milliseconds"] = "parameters"
    """What is saved; milliseconds are measured layer by layer."""
    kinds: tuple[str, ...] = option(("channels", "heads", "hidden-units"), some_of=_KINDS)
    """What may go."""
    score: Score = "magnitude"
    """What goes first."""
    multiple: int = option(8, at_least=1)
    """Channels left are a multiple of it: always with ``cost=milliseconds``, else where there are twice as many."""
    again: bool = False
    """Prune a model that this pass has pruned already, such as by another cost."""
    most: float = option(0.75, above=0, at_most=1)
    """Share of alike groups that may go."""
    limit: float = option(0.5, above=0)
    """The largest error of a region's outputs, relative to their norm and before the repair."""
    repair: bool = True
    """Fit the layers to what is left, where there is calibration data."""

    @property
    def tolerance(self) -> float:
        """Return the error above which a region is left as it is."""
        return self.limit

    def apply(self, work: Workbench) -> None:
        """Choose groups, then change one connected region after the other."""
        leave_experts(work)
        wanted = {_KINDS[name] for name in self.kinds}
        coupled = work.analyses.get(Coupling())
        families = [f for f in coupled.families if f.kind in wanted and self._may(f, work)]
        if not families:
            self._explain(coupled, work)
            return
        root = families[0].groups[0].slices[0].slot.readers[0][0]
        if not self.again and any(_is_pruned(node, self.name) for node in work.graph):
            work.coverage.matched += 1
            work.decline(root, "the model is pruned already (again=true prunes it once more)")
            return
        try:
            gone = self._choose(coupled, families, work)
        except (Mismatch, CannotRun) as reason:
            work.coverage.matched += 1
            work.decline(root, str(reason))
            return
        self._remove(coupled, gone, families, work)

    def _may(self, family: Family, work: Workbench) -> bool:
        """Tell whether the user lets a family go, and whether a layer would gain."""
        nodes = _layers(family)
        if any(self.skips(node.name or "") for node in nodes):
            work.decline(nodes[0], "left alone as the user wishes (skip)")
            return False
        return any(self.chooses(node.name or "") for node in nodes)

    def _explain(self, coupled: Coupled, work: Workbench) -> None:
        for reason in list(coupled.kept)[:3]:
            work.coverage.near_misses[reason.partition("'")[2].partition("'")[0]] = reason

    def _choose(
        self, coupled: Coupled, families: Sequence[Family], work: Workbench
    ) -> frozenset[int]:
        cost = costs(coupled, work, self.cost)
        if cost.whole <= 0:
            raise Mismatch(f"no layer's {self.cost} are known")
        judged = scores(self.score, families, coupled, work)
        steps = order_steps(coupled, families, judged, cost, self.multiple, self.most)
        return choose(coupled, steps, cost, self.ratio)

    def _remove(
        self, coupled: Coupled, gone: frozenset[int], families: Sequence[Family], work: Workbench
    ) -> None:
        dense = work.model.clone() if self.repair and work.context.calibration else None
        pruned: list[Pruned] = []
        for region in find_regions(coupled, gone, work.graph):
            work.coverage.matched += 1
            pruned += self._shrink(coupled, gone, families, region, work)
        if dense is not None:
            order = {node: k for k, node in enumerate(work.graph)}
            repair(sorted(pruned, key=lambda layer: order[layer.node]), dense, work)

    def _shrink(
        self,
        coupled: Coupled,
        gone: frozenset[int],
        families: Sequence[Family],
        region: Region,
        work: Workbench,
    ) -> list[Pruned]:
        """Prove and make one region smaller; return its layers."""
        try:
            masked = Masking(coupled, gone, region, work.fresh)
            small = Shrinking(coupled, gone, region, work.fresh)
        except Mismatch as reason:
            work.decline(region.nodes[0], str(reason))
            return []
        compared = replacement(region, small, masked)
        proven = self._proven(region, compared, work)
        Proposal((), (), tuple(masked.build.nodes)).discard()
        proposal = replacement(region, small)
        if not proven:
            proposal.discard()
            return []
        layers = _pruned(small)
        damage = _damage(region, families, gone, small)
        if work.propose(proposal, damage, _samples(region, work)):
            return layers
        return []

    def _proven(self, region: Region, compared: Proposal, work: Workbench) -> bool:
        """Tell whether zeros in place of what goes and leaving it out are the same but for rounding."""
        exact = Fidelity.ROUNDING
        prover = Prover(work.model, work.context.bindings, work.context.seed)
        verdict = prover.check(compared, exact, exact.tolerance)
        if verdict.kind is VerdictKind.PROVEN:
            work.coverage.proofs["as with zeros"] += 1
            return True
        site = region.nodes[0].name or region.nodes[0].op_type
        if verdict.kind is VerdictKind.OPEN:
            work.coverage.declined[site] = f"cannot be proven: {verdict.reason}"
            return False
        folder, place = work.context.reproducers, ""
        if folder is not None:
            place = str(save_reproducer(verdict, folder, f"{self.name}.{site}"))
        reason = f"with zeros and without: {verdict.reason}"
        work.coverage.failures.append(Failure(site, reason, verdict.error, place))
        return False


def _is_pruned(node: onnx_ir.Node, name: str) -> bool:
    return (node.metadata_props.get("whet.from") or "").startswith(f"{name}:")


def _layers(family: Family) -> list[onnx_ir.Node]:
    """Return the layers that lose something with a family."""
    readers = [node for part in family.groups[0].slices for node, _ in part.slot.readers]
    nodes = list(dict.fromkeys(readers))
    return [node for node in nodes if is_op(node, *LAYERS)] or nodes


def _pruned(small: Shrinking) -> list[Pruned]:
    """Return the new layers with what is left of their channels."""
    found: list[Pruned] = []
    for new, old in small.places.items():
        if not is_op(new, *LAYERS) or is_op(new, "ConvTranspose") or not is_constant(new.inputs[1]):
            continue
        left = small.outputs(old)[0]
        kept = left[1 if is_op(old, "Conv") else -1]
        found.append(Pruned(new, old.outputs[0].name or "", kept))
    return found


def _samples(region: Region, work: Workbench) -> dict[str, Array]:
    """Return real values for what a region reads."""
    if not work.context.calibration:
        return {}
    made = {v for node in region.nodes for v in node.outputs}
    read = {v for node in region.nodes for v in node.inputs if v is not None and v not in made}
    names = sorted(v.name or "" for v in read if not is_constant(v))
    batch = first_samples(work.model, next(iter(work.context.judge)))
    try:
        return dict(observe(work.model, names, [batch], threads=work.context.threads))
    except CannotRun:
        return {}


def _damage(
    region: Region, families: Sequence[Family], gone: Collection[int], small: Shrinking
) -> Damage:
    inside = set(region.nodes)
    words: dict[str, list[int]] = {}
    for family in families:
        if not inside.isdisjoint(_layers(family)):
            lost = sum(group.atom in gone for group in family.groups)
            if lost:
                total = words.setdefault(family.kind.value, [0, 0])
                total[0] += lost
                total[1] += len(family.groups)
    removed = ", ".join(f"{lost} of {count} {kind}" for kind, (lost, count) in words.items())
    read = {v for node in region.nodes for v in node.inputs if is_constant(v)}
    new = {v for node in small.build.nodes for v in node.inputs if is_constant(v)}
    return Damage(
        site=region.nodes[0].name or region.nodes[0].op_type,
        format=f"without {removed}",
        error=0.0,
        bytes_before=sum(_bytes(v) for v in read),
        bytes_after=sum(_bytes(v) for v in new),
    )


def _bytes(value: onnx_ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else value.const_value.nbytes
