"""Blocks of a residual network that could go: attentions, MLPs, convolutions, and an attention with its MLP."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import onnx_ir

from whet.analysis.activations import observe_together
from whet.analysis.residual_branches import Branch, find_branches, unread_without
from whet.ir.values import Array, dimensions, is_op
from whet.passes.proposal import Builder, FreshNames, Proposal
from whet.passes.structure.algorithms.similarity import Closeness

__all__ = ["BlockKind", "Drop", "find_drops", "measure_closeness", "model_without", "without"]

BlockKind = Literal["attention", "mlp", "convolution", "block"]
_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_CHUNK = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Drop:
    """What a network would be without some branches: ``new`` is read where ``old`` was."""

    kind: BlockKind
    branches: tuple[Branch, ...]
    old: onnx_ir.Value
    new: onnx_ir.Value

    @property
    def joint(self) -> onnx_ir.Node:
        """Return the addition that names the place."""
        return self.branches[-1].joint

    @property
    def drop(self) -> "Drop":
        """Return itself: a block is one way to do without its weights."""
        return self

    @property
    def told(self) -> str:
        """Return how the network would be."""
        return f"without the {self.kind}"

    @property
    def axis(self) -> int:
        """Return the axis of the channels."""
        return 1 if self.kind == "convolution" else -1


def find_drops(graph: onnx_ir.Graph) -> list[Drop]:
    """Return every way to leave out a branch, or an attention together with the MLP behind it.

    In a post-norm network, where ``y = norm(x + f(x))``, the normalization may stay or go too.
    """
    branches = find_branches(graph)
    found: list[Drop] = []
    for branch in branches:
        found += _without((branch,), branch.kind)
    for first, second in itertools.pairwise(branches):
        if (first.kind, second.kind) == ("attention", "mlp") and _follows(first, second):
            found += _without((first, second), "block")
    return found


def _without(branches: tuple[Branch, ...], kind: BlockKind) -> Iterator[Drop]:
    skip, output = branches[0].skip, branches[-1].output
    for value in (output, _normalized(output) if is_op(skip.producer(), *_NORMS) else None):
        if value is not None and dimensions(value) == dimensions(skip):
            yield Drop(kind, branches, value, skip)


def _normalized(value: onnx_ir.Value) -> onnx_ir.Value | None:
    """Return what a normalization makes of a value that nothing else reads."""
    readers = list(value.consumers())
    if len(readers) != 1 or value.is_graph_output() or not is_op(readers[0], *_NORMS):
        return None
    return readers[0].outputs[0]


def _follows(first: Branch, second: Branch) -> bool:
    return second.skip is first.output or second.skip is _normalized(first.output)


def measure_closeness(
    model: onnx_ir.Model,
    drops: Sequence[Drop],
    batches: Sequence[Mapping[str, Array]],
    threads: int = 0,
) -> list[Closeness]:
    """Compare what blocks read and what comes out, on data; raises CannotRun."""
    found = [Closeness(drop.axis) for drop in drops]
    for start in range(0, len(drops), _CHUNK):
        part = list(zip(drops, found, strict=True))[start : start + _CHUNK]
        names = list(dict.fromkeys(v.name or "" for d, _ in part for v in (d.new, d.old)))
        for seen in observe_together(model, names, batches, threads):
            for drop, closeness in part:
                closeness.add(seen[drop.new.name or ""], seen[drop.old.name or ""])
    return found


def without(drop: Drop, new: onnx_ir.Value, build: Builder) -> Proposal:
    """Return the proposal that ``new``, or what stands for it now, is read where the block's output was."""
    made = build.op("Identity", new)
    gone = [node for node in unread_without([drop.old], [new]) if node is not drop.joint]
    maker = drop.old.producer()
    assert maker is not None
    old = dict.fromkeys([maker, drop.joint, *gone])
    return Proposal(tuple(old), ((drop.old, made),), tuple(build.nodes))


def model_without(model: onnx_ir.Model, old: str, new: str) -> onnx_ir.Model:
    """Return a copy of the model in which one value is read where another was, by name."""
    copy = model.clone()
    values = {v.name: v for v in copy.graph.inputs}
    values.update((v.name, v) for node in copy.graph for v in node.outputs)
    target = values[old]
    maker = target.producer()
    assert maker is not None
    build = Builder(FreshNames(copy), maker)
    made = build.op("Identity", values[new])
    gone = unread_without([target], [values[new]])
    nodes = tuple(dict.fromkeys([maker, *gone]))
    Proposal(nodes, ((target, made),), tuple(build.nodes)).commit("trial")
    return copy
