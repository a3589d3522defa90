"""Leave out the blocks that change their input least."""

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir

from whet.analysis.residual_branches import unread_without
from whet.ir.values import is_constant
from whet.passes.base import Damage
from whet.passes.option import option
from whet.passes.structure.blocks import Drop, find_drops, measure_closeness, model_without, without
from whet.passes.structure.greedy import Greed, GreedyPass
from whet.passes.workbench import Workbench

__all__ = ["DropBlocks"]


@dataclasses.dataclass(frozen=True)
class DropBlocks(GreedyPass[Drop]):
    """Leave out branches of residual networks: ``x + f(x)`` becomes x.

    Branches are found on the graph, whether normalizations stand in front of them or behind the sum: attentions, MLPs,
    convolutions, and blocks of an attention and an MLP. Those whose input and output have the highest mean cosine on
    calibration data (ShortGPT, Men et al. 2024; LLM-Drop, He et al. 2024) are tried one by one; the one goes without
    which the model's outputs on data held out change least, then the next one is looked for, up to ``count``. None
    goes that would bring the change above ``limit``. Where a sum is normalized, both may go.
    """

    kinds: tuple[str, ...] = option(
        ("attention", "mlp", "convolution"), some_of=("attention", "mlp", "convolution", "block")
    )
    """What may go; a block is an attention with the MLP behind it."""

    def places(self, graph: onnx_ir.Graph) -> Mapping[onnx_ir.Node, Sequence[Drop]]:
        """Return the blocks by the addition that ends them."""
        found: dict[onnx_ir.Node, list[Drop]] = {}
        for drop in find_drops(graph):
            if drop.kind in self.kinds:
                found.setdefault(drop.joint, []).append(drop)
        return found

    def begin(self, work: Workbench, found: Sequence[Drop]) -> Greed[Drop]:
        """Return a run over these blocks."""
        return _Run(self, work, found)


class _Run(Greed[Drop]):
    """One run over one model."""

    def __init__(self, options: DropBlocks, work: Workbench, found: Sequence[Drop]) -> None:
        super().__init__(options, work, found)
        self._stands: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Value that is gone -> what is read in its place."""

    def done(self) -> int:
        """Return how many went in earlier runs."""
        return sum(_is_mark(node, self._pass.name) for node in self._work.graph)

    def trial(self, candidate: Drop) -> onnx_ir.Model:
        """Return a copy of the model without one more block."""
        old, new = (self._now(value).name or "" for value in (candidate.old, candidate.new))
        return model_without(self._work.model, old, new)

    def row(self, candidate: Drop, cosine: float, error: float) -> Damage:
        """Return what the block costs and changes where it is now."""
        new, context = self._now(candidate.new), self._work.context
        now = dataclasses.replace(candidate, new=new)
        (after,) = measure_closeness(self._work.model, [now], context.judge, context.threads)
        return Damage(
            site=candidate.joint.name or candidate.joint.op_type,
            format=f"no {candidate.kind}, cosine {cosine:.4f}, outputs {error:.3g}",
            error=after.error,
            bytes_before=_weight_bytes(candidate, new),
            bytes_after=0,
        )

    def change(self, candidate: Drop) -> None:
        """Leave the block out."""
        work, before = self._work, self._work.coverage.changed
        proposal = without(candidate, self._now(candidate.new), work.builder(candidate.joint))
        work.accept(proposal, "error of the outputs on data held out")
        if work.coverage.changed > before:
            self._stands[candidate.old] = proposal.outputs[0][1]

    def excludes(self, taken: Drop, other: Drop) -> bool:
        """Tell whether they have a branch in common."""
        return not set(taken.branches).isdisjoint(other.branches)

    def _now(self, value: onnx_ir.Value) -> onnx_ir.Value:
        while value in self._stands:
            value = self._stands[value]
        return value


def _is_mark(node: onnx_ir.Node, name: str) -> bool:
    made = (node.metadata_props.get("whet.from") or "").startswith(f"{name}:")
    return made and node.op_type == "Identity"


def _weight_bytes(drop: Drop, kept: onnx_ir.Value) -> int:
    """Return the bytes of the weights that only the block reads."""
    gone = set(unread_without([drop.old], [kept]))
    read = dict.fromkeys(v for node in gone for v in node.inputs if v is not None)
    return sum(
        v.const_value.nbytes
        for v in read
        if is_constant(v) and v.const_value is not None and set(v.consumers()) <= gone
    )
