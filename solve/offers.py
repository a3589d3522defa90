"""What can be done at every site, and what it costs: passes applied to copies of the model, priced piece by piece."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir

from whet.ir.sites import Site, find_sites
from whet.ir.values import is_constant
from whet.passes.base import Damage, Pass
from whet.passes.workbench import Context
from whet.solve.allocation import Decision, Doubles, Option, Problem
from whet.solve.apply_plan import Chosen
from whet.solve.variants import Piece, Variant, change, take_apart

if TYPE_CHECKING:
    from whet.solve.store import Store

__all__ = ["KEEP", "Group", "Market", "Offer"]

KEEP = "keep"
_FIELD, _TENSOR = 2, 8
"""Bytes of tag and length of a field; those of a tensor beside its name, its shape and its numbers."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """One way to realize the sites of a group."""

    label: str
    step: Pass | None
    pieces: tuple[Piece, ...]
    damage: tuple[Damage, ...]
    bytes: int
    ms: float | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Sites that read the same weight, and so are one decision."""

    sites: tuple[Site, ...]
    offers: tuple[Offer, ...]

    @property
    def name(self) -> str:
        """Return the name of the first site."""
        return self.sites[0].name


class Market:
    """All groups of a model with their offers."""

    def __init__(self, model: onnx_ir.Model, variants: Sequence[Variant], *, timed: bool) -> None:
        """Take the variants apart; with ``timed`` milliseconds count, and a site without a price takes none."""
        self.model = model
        self._places = {v.name: k for k, node in enumerate(model.graph) for v in node.outputs}
        self._variants = variants
        nodes = {node.name: node for node in model.graph}
        self.groups = tuple(
            Group(sites, tuple(_offers(sites, nodes, variants, timed=timed)))
            for sites in _groups(find_sites(model))
        )
        named = {site.name for group in self.groups for site in group.sites}
        self._between = [
            (variant.step, piece)
            for variant in variants
            for site, pieces in variant.pieces.items()
            if site not in named
            for piece in pieces
        ]

    @property
    def pieces(self) -> list[Piece]:
        """Return the pieces of all offers, group by group."""
        return [p for group in self.groups for offer in group.offers for p in offer.pieces]

    @property
    def chained(self) -> list[list[bool]]:
        """Return per group and offer whether it hands integers on to its neighbours."""
        return [
            [offer.step is not None and offer.step.chains for offer in group.offers]
            for group in self.groups
        ]

    def problem(self, directions: Doubles | None) -> Problem:
        """Return the choice to be made; ``directions`` ``[pieces, draws]`` belong to :attr:`pieces`."""
        decisions: list[Decision] = []
        start = 0
        for group in self.groups:
            options: list[Option] = []
            for offer in group.offers:
                rows = slice(start, start + len(offer.pieces))
                start = rows.stop
                if directions is None:
                    loss, along = sum(row.predicted_loss for row in offer.damage), None
                else:
                    along = directions[rows].sum(0)
                    loss = 0.5 * float(np.mean(along**2))
                options.append(Option(offer.label, loss, offer.bytes, offer.ms, along))
            decisions.append(Decision(group.name, tuple(options)))
        return Problem(tuple(decisions))

    def chosen(self, choices: Sequence[int], losses: Sequence[float] = ()) -> tuple[Chosen, ...]:
        """Return the pieces of a plan in graph order, with what lies between integers."""
        found: dict[str, Chosen] = {}
        taken: dict[str, Pass] = {}
        for number, (group, choice) in enumerate(zip(self.groups, choices, strict=True)):
            offer = group.offers[choice]
            rows = dict(zip((s.name for s in group.sites), offer.damage, strict=False))
            for piece, row in zip(offer.pieces, [*rows.values()], strict=False):
                price = losses[number] / len(offer.pieces) if losses else row.curvature
                found[piece.old] = Chosen(piece, dataclasses.replace(row, curvature=price))
            for piece in offer.pieces:
                found.setdefault(piece.old, Chosen(piece, None))
                if offer.step is not None:
                    taken[piece.old] = offer.step
        for step, piece in sorted(self._between, key=lambda item: self._rank(item[1])):
            if piece.old not in found and all(
                name in taken and type(taken[name]) is type(step) for name in piece.reads.values()
            ):
                found[piece.old] = Chosen(piece, None)
                taken[piece.old] = step
        return tuple(sorted(found.values(), key=lambda c: self._rank(c.piece)))

    def _rank(self, piece: Piece) -> int:
        return self._places[piece.old]


def make_market(
    model: onnx_ir.Model, steps: Iterable[Pass], context: Context, store: "Store | None" = None
) -> tuple[Market, dict[str, str]]:
    """Apply each pass to a copy of the model; return what they offer, and why some offer nothing.

    What ``store`` knows already is not done again.
    """
    variants: list[Variant] = []
    idle: dict[str, str] = {}
    for step in steps:
        context.progress(f"candidates: {step}")
        variant = _variant(model, step, context, store)
        if variant.pieces:
            variants.append(variant)
        else:
            idle[str(step)] = variant.nothing
    return Market(model, variants, timed=context.prices is not None), idle


def _variant(model: onnx_ir.Model, step: Pass, context: Context, store: "Store | None") -> Variant:
    known = None if store is None else store.variant(model, step)
    if known is not None:
        return known
    parts = change(model, step, context)
    if store is not None:
        store.keep_variant(step, parts)
    return take_apart(model, step, parts)


def _groups(sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Return sites that share weights together, in the order of their first ones."""
    found: list[list[Site]] = []
    for site in sites:
        if not site.weights:
            continue
        near = [g for g in found if any(set(site.weights) & set(s.weights) for s in g)]
        joined = [s for g in near for s in g] + [site]
        if near:
            found[found.index(near[0])] = joined
            found = [g for g in found if g is joined or g not in near]
        else:
            found.append(joined)
    return [tuple(group) for group in found]


def _offers(
    sites: tuple[Site, ...],
    nodes: Mapping[str | None, onnx_ir.Node],
    variants: Sequence[Variant],
    *,
    timed: bool,
) -> Iterable[Offer]:
    mine = [nodes[site.name] for site in sites]
    before = _ms_before(sites, variants) if timed else None
    yield Offer(KEEP, None, (), (), _stored(mine), before)
    for variant in variants:
        found = [variant.pieces.get(site.name) for site in sites]
        rows = [variant.damage.get(site.name) for site in sites]
        if not all(found):
            continue
        pieces = tuple(p for part in found if part is not None for p in part)
        damage = tuple(row for row in rows if row is not None)
        size = _stored(node for piece in pieces for node in piece.nodes)
        ms = None if before is None else before * _speed(damage)
        yield Offer(str(variant.step), variant.step, pieces, damage, size, ms)


def _stored(nodes: Iterable[onnx_ir.Node]) -> int:
    """Return the bytes that nodes and their weights take in a file."""
    unique = dict.fromkeys(nodes)
    weights = dict.fromkeys(v for n in unique for v in n.inputs if is_constant(v))
    tensors = sum(
        v.const_value.nbytes + len(v.name or "") + _TENSOR + 2 * len(v.const_value.shape)
        for v in weights
        if v is not None and v.const_value is not None
    )
    return tensors + sum(_node_bytes(node) for node in unique)


def _node_bytes(node: onnx_ir.Node) -> int:
    """Return tags, lengths and words of a node as the file format spells them."""
    names = [node.name, node.op_type, *(v.name if v else "" for v in (*node.inputs, *node.outputs))]
    attributes = sum(
        _FIELD + len(onnx_ir.to_proto(a).SerializeToString()) for a in node.attributes.values()
    )
    return _FIELD + attributes + sum(_FIELD + len(name or "") for name in names)


def _ms_before(sites: tuple[Site, ...], variants: Sequence[Variant]) -> float:
    total = 0.0
    for site in sites:
        rows = [variant.damage.get(site.name) for variant in variants]
        known = [row.ms_before for row in rows if row is not None and row.ms_before is not None]
        total += known[0] if known else 0.0
    return total


def _speed(damage: Sequence[Damage]) -> float:
    """Return the time after over the time before; 1 where kernels stay what they were."""
    pairs = [
        (row.ms_before, row.ms_after)
        for row in damage
        if row.ms_before is not None and row.ms_after is not None
    ]
    before = sum(b for b, _ in pairs)
    return sum(a for _, a in pairs) / before if before > 0 else 1.0
