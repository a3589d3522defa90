"""Leave out the blocks that change their input least."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir

from whet.analysis.output_damage import OutputError
from whet.analysis.residual_branches import unread_without
from whet.errors import UsageError
from whet.ir.execute import CannotRun
from whet.ir.values import is_constant
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.structure.algorithms.similarity import Closeness
from whet.passes.structure.blocks import Drop, find_drops, measure_closeness, model_without, without
from whet.passes.workbench import Workbench

__all__ = ["DropBlocks"]

_KINDS = ("attention", "mlp", "convolution", "block")


@dataclasses.dataclass(frozen=True)
class DropBlocks(Pass):
    """Leave out branches of residual networks: ``x + f(x)`` becomes x.

    Branches are found on the graph, whether normalizations stand in front of them or behind the sum: attentions, MLPs,
    convolutions, and blocks of an attention and an MLP. Those whose input and output have the highest mean cosine on
    calibration data (ShortGPT, Men et al. 2024; LLM-Drop, He et al. 2024) are tried one by one; the one goes without
    which the model's outputs on data held out change least, then the next one is looked for, up to ``count``. None
    goes that would bring the change above ``limit``. Where a sum is normalized, both may go.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True

    count: int = 1
    """How many go, those of earlier runs included."""
    kinds: tuple[str, ...] = ("attention", "mlp", "convolution")
    """What may go: attention, mlp, convolution, block (an attention with the MLP behind it)."""
    limit: float = 0.25
    """The largest ||new - old|| / ||old|| of the model's outputs on data held out, of all that goes."""
    tries: int = 6
    """So many of the most similar are tried before one goes."""

    def apply(self, work: Workbench) -> None:
        """Drop one block after the other."""
        self._check_options()
        chosen = set(work.nodes("Add"))
        drops = [d for d in find_drops(work.graph) if d.kind in self.kinds and d.joint in chosen]
        work.coverage.matched += len({drop.joint for drop in drops})
        if not drops:
            return
        if not work.context.calibration:
            for drop in drops:
                work.decline(drop.joint, "needs calibration data")
            return
        try:
            _Run(self, work, drops).drop()
        except CannotRun as reason:
            for drop in drops:
                work.decline(drop.joint, str(reason))

    def _check_options(self) -> None:
        for kind in self.kinds:
            if kind not in _KINDS:
                raise UsageError(
                    f"option 'kinds' of pass '{self.name}' has '{kind}', expected some of {', '.join(_KINDS)}"
                )
        for name, value in (("count", self.count), ("tries", self.tries), ("limit", self.limit)):
            if value <= 0:
                raise UsageError(
                    f"option '{name}' of pass '{self.name}' is {value}, expected more than 0"
                )


class _Run:
    """One run over one model."""

    def __init__(self, options: DropBlocks, work: Workbench, drops: Sequence[Drop]) -> None:
        self._pass = options
        self._work = work
        context = work.context
        found = measure_closeness(work.model, drops, context.calibration, context.threads)
        self._left = sorted(zip(drops, found, strict=True), key=lambda one: -one[1].cosine)
        self._judge = OutputError(work.model, context)
        self._stands: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Value that is gone -> what is read in its place."""

    def drop(self) -> None:
        """Drop while there is one that keeps the limit."""
        marked = [node for node in self._work.graph if _is_mark(node, self._pass.name)]
        for _ in range(self._pass.count - len(marked)):
            if not self._drop_one():
                return
        for drop, closeness in self._left:
            reason = f"{self._pass.count} went already" if marked else "others change less"
            self._work.decline(drop.joint, f"{reason}: cosine {closeness.cosine:.4f}")

    def _drop_one(self) -> bool:
        tried = [(self._error(drop), drop, near) for drop, near in self._shortlist()]
        if not tried:
            return False
        error, drop, near = min(tried, key=lambda one: one[0])
        if error > self._pass.limit:
            for lost, other, near in tried:
                self._work.decline(
                    other.joint,
                    f"without the {other.kind} (cosine {near.cosine:.4f}) the outputs change by {lost:.3g}, "
                    f"the limit is {self._pass.limit:g}",
                )
            return False
        gone = set(drop.branches)
        if self._commit(drop, near, error):
            self._left = [one for one in self._left if not gone & set(one[0].branches)]
            return True
        self._left = [one for one in self._left if one[0] is not drop]
        return bool(self._left)

    def _shortlist(self) -> list[tuple[Drop, Closeness]]:
        """Return the most similar ones, of each joint in all its forms."""
        joints = list(dict.fromkeys(drop.joint for drop, _ in self._left))[: self._pass.tries]
        return [one for one in self._left if one[0].joint in joints]

    def _error(self, drop: Drop) -> float:
        """Return how far the outputs are from the source's without one more block."""
        old, new = self._now(drop.old).name or "", self._now(drop.new).name or ""
        return self._judge.of(onnx_ir.to_proto(model_without(self._work.model, old, new)))

    def _now(self, value: onnx_ir.Value) -> onnx_ir.Value:
        while value in self._stands:
            value = self._stands[value]
        return value

    def _commit(self, drop: Drop, near: Closeness, error: float) -> bool:
        work, before = self._work, self._work.coverage.changed
        size = _weight_bytes(drop, self._now(drop.new))
        held = work.context
        (after,) = measure_closeness(work.model, [self._renamed(drop)], held.judge, held.threads)
        proposal = without(drop, self._now(drop.new), work.builder(drop.joint))
        work.accept(proposal, "error of the outputs on data held out")
        if work.coverage.changed == before:
            return False
        self._stands[drop.old] = proposal.outputs[0][1]
        work.coverage.max_error = max(work.coverage.max_error, error)
        row = Damage(
            site=drop.joint.name or drop.joint.op_type,
            format=f"no {drop.kind}, cosine {near.cosine:.4f}, outputs {error:.3g}",
            error=after.error,
            bytes_before=size,
            bytes_after=0,
            measured_on="held-out data" if held.held_out else "calibration data",
        )
        work.coverage.damage.append(row)
        return True

    def _renamed(self, drop: Drop) -> Drop:
        return dataclasses.replace(drop, new=self._now(drop.new))


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
