"""What a pass makes of every site: the model it leaves behind, taken apart into one piece for each site.

A piece is what took the place of one value of the original: the new nodes, back to other values of the original. Pieces
of different variants can be put into one model, whichever passes they come from.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir

from whet.ir.sites import find_sites
from whet.passes.base import Damage, Pass
from whet.passes.pipeline import Pipeline
from whet.passes.proposal import Proposal
from whet.passes.workbench import Context, Workbench

__all__ = ["Parts", "Piece", "Variant", "change", "take_apart"]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a variant computes in the place of one value of the original."""

    old: str
    """The original's value."""
    new: onnx_ir.Value
    nodes: tuple[onnx_ir.Node, ...]
    """In the variant's graph order; variants share nodes between pieces, such as one activation's integers."""
    reads: Mapping[onnx_ir.Value, str]
    """Values that come from outside -> what they are in the original."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A pass that was applied wherever it could be."""

    step: Pass
    pieces: Mapping[str, tuple[Piece, ...]]
    """Name of a node of the original -> the pieces that came of it."""
    damage: Mapping[str, Damage]
    nothing: str
    """Why there are no pieces, if there are none."""


class _Watch:
    """Remember which proposal replaced which values of the original."""

    def __init__(self, sites: frozenset[str]) -> None:
        self._sites = sites
        self.names: dict[str, str] = {}
        """Name of a proposal's root -> name of the site that it replaced, or its own."""
        self.roots: dict[str, list[tuple[str, onnx_ir.Value]]] = {}
        self.origin: dict[onnx_ir.Value, str] = {}

    def __call__(self, work: Workbench, proposal: Proposal | None) -> None:
        del work
        if proposal is None:
            return
        fresh = set(proposal.new)
        inside = [n.name for n in proposal.old if n.name in self._sites]
        site = self.names[proposal.site] = (inside[0] if inside else None) or proposal.site
        for old, new in proposal.outputs:
            if new.producer() not in fresh:
                continue
            name = self.origin.get(old, old.name or "")
            self.origin[new] = name
            self.roots.setdefault(site, []).append((name, new))


@dataclasses.dataclass(frozen=True)
class Parts:
    """A model that a pass has changed, and where its new values came from, by name."""

    model: onnx_ir.Model
    roots: Mapping[str, Sequence[tuple[str, str]]]
    """Name of a node of the original -> (value of the original, value that took its place)."""
    origin: Mapping[str, str]
    """New value -> the value of the original whose place it took."""
    damage: Mapping[str, Damage]
    nothing: str


def change(model: onnx_ir.Model, step: Pass, context: Context) -> Parts:
    """Apply a pass to a copy of the model, with proof."""
    watch = _Watch(frozenset(site.name for site in find_sites(model)))
    mine = dataclasses.replace(
        context, watch=watch, lineage={}, original=None, score=None, committed=0
    )
    changed, (record,) = Pipeline((step,)).run(model.clone(), mine)
    return Parts(
        changed,
        {
            site: [(name, new.name or "") for name, new in replaced]
            for site, replaced in watch.roots.items()
        },
        {value.name or "": name for value, name in watch.origin.items()},
        {watch.names.get(row.site, row.site): row for row in record.coverage.damage},
        record.coverage.nearest_miss,
    )


def take_apart(original: onnx_ir.Model, step: Pass, parts: Parts) -> Variant:
    """Cut one piece out of a changed model for each value that was replaced."""
    known = {v.name or "" for v in _values(original)}
    made = {v.name or "": v for v in _values(parts.model)}
    ranks = {node: k for k, node in enumerate(parts.model.graph)}
    pieces = {
        site: tuple(_cut(old, made[new], parts.origin, known, ranks) for old, new in replaced)
        for site, replaced in parts.roots.items()
    }
    return Variant(step, pieces, parts.damage, parts.nothing)


def _values(model: onnx_ir.Model) -> Iterable[onnx_ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def _cut(
    name: str,
    new: onnx_ir.Value,
    origin: Mapping[str, str],
    known: set[str],
    ranks: Mapping[onnx_ir.Node, int],
) -> Piece:
    """Walk back from a new value to values of the original."""
    nodes: dict[onnx_ir.Node, None] = {}
    reads: dict[onnx_ir.Value, str] = {}
    waiting = [new]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value is not new:
            name_now = value.name or ""
            before = origin.get(name_now, name_now if name_now in known else None)
            if before is not None:
                reads[value] = before
                continue
        if node is None or node in nodes:
            continue
        nodes[node] = None
        waiting += [v for v in node.inputs if v is not None]
    return Piece(name, new, tuple(sorted(nodes, key=ranks.__getitem__)), reads)
