"""Put what was chosen for every site into the model, with the proof and the record that every pass owes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import onnx_ir

from whet.analysis.activations import Sampler, first_samples
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench
from whet.solve.grafting import Copier
from whet.solve.variants import Piece

__all__ = ["ApplyPlan", "Chosen"]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A piece, and what it costs."""

    piece: Piece
    damage: Damage | None


@dataclasses.dataclass(frozen=True)
class ApplyPlan(Pass):
    """Put what the solver chose for every site in its place.

    The pieces come from passes that were applied to copies of this model; each is executed and compared once more, now
    behind those before it.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    chosen: tuple[Chosen, ...] = ()
    """In graph order."""

    def __str__(self) -> str:
        """Return the name: a recipe cannot spell it."""
        return self.name

    def apply(self, work: Workbench) -> None:
        """Propose piece by piece."""
        work.coverage.matched += len(self.chosen)
        values = {v.name or "": v for v in work.graph.inputs}
        for node in work.graph:
            values.update((v.name or "", v) for v in node.outputs)
        copier = Copier(work.fresh, work.graph.initializers)
        sampler = _sampler(work, self.chosen)
        for chosen in self.chosen:
            piece = chosen.piece
            old = values[piece.old]
            reads = {values[name] for name in piece.reads.values()}
            copied = copier.copy(piece, values)
            assert copied.output is not None
            proposal = Proposal(
                _between(old, reads),
                ((old, copied.output),),
                tuple(copied.nodes),
                tuple(copied.weights),
            )
            samples = _samples(sampler, {values[name]: name for name in piece.reads.values()})
            if work.propose(proposal, chosen.damage, samples):
                values[piece.old] = copied.output
            else:
                copier.forget(copied)


def _between(old: onnx_ir.Value, reads: set[onnx_ir.Value]) -> tuple[onnx_ir.Node, ...]:
    """Return the nodes from a value back to others, readers before what they read."""
    found: dict[onnx_ir.Node, None] = {}
    waiting = [old]
    while waiting:
        value = waiting.pop(0)
        node = value.producer()
        if node is None or (value in reads and value is not old):
            continue
        found.pop(node, None)
        found[node] = None
        waiting += [v for v in node.inputs if v is not None]
    return tuple(found)


def _sampler(work: Workbench, chosen: Sequence[Chosen]) -> Sampler | None:
    if not work.context.judge:
        return None
    names = list(dict.fromkeys(n for c in chosen for n in c.piece.reads.values()))
    feeds = first_samples(work.model, work.context.judge[0])
    return Sampler(work.model, names, feeds, work.context.threads)


def _samples(sampler: Sampler | None, names: Mapping[onnx_ir.Value, str]) -> dict[str, Array]:
    """Return real data for the operands, under their present names."""
    if sampler is None:
        return {}
    try:
        found = {value.name or "": sampler(name) for value, name in names.items()}
    except CannotRun:
        return {}
    return {name: array for name, array in found.items() if array is not None}
