"""Every layer of a result on one line: what became of it, what that cost, and what it weighs."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir

from whet.advice import Advice
from whet.ir.sites import Site, find_sites
from whet.ir.values import constant
from whet.passes.base import Damage, Fidelity
from whet.passes.pipeline import Step

__all__ = ["Layer", "list_layers"]

_COUNTED = 1 << 28
"""Zeros are not counted where weights have more bytes together: all of them would have to be read from disk."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the result."""

    site: str
    kind: str
    """linear, convolution, embedding or attention; of a changed layer, the pass that changed it."""
    format: str
    """What it became; ``float`` where it was left as it is."""
    bits: float | None
    """On disk for each weight of the original, scales and tables included."""
    sparsity: float | None
    """Share of its weights that are zero, where that is known."""
    rank: int | None
    error: float | None
    """||new - old|| / ||old|| of its output; None where nothing was changed."""
    sqnr: float | None
    """The same in dB: -20 log10(error)."""
    measured_on: str
    predicted_loss: float | None
    bytes_before: int
    bytes_after: int
    ms_before: float | None
    ms_after: float | None
    """Milliseconds of its kernel alone, where both forms were priced."""
    why: str
    """Why lossy passes left it alone; what a search says is among its decisions."""
    revert: int | None
    """Its place in the list of what to take back first, from 1 on."""
    avoided: float | None
    """Share of the predicted loss of all layers that taking it back avoids."""


def list_layers(
    model: onnx_ir.Model,
    steps: Sequence[Step],
    advice: Sequence[Advice],
    search: Mapping[str, Any] | None,
) -> list[Layer]:
    """Return the layers of a result, changed ones first by loss, then those left as they are, in graph order."""
    rows = [(step, row) for step in steps if not step.reverted for row in step.coverage.damage]
    rows.sort(key=lambda pair: (-pair[1].predicted_loss, -pair[1].error))
    ranked = {a.site: (k, a.avoided) for k, a in reversed(list(enumerate(advice, 1)))}
    reasons = _reasons(steps)
    decided = {str(d["site"]) for d in search["decisions"]} if search is not None else set[str]()
    parts = _parts(model)
    changed = [
        _changed(step, row, _named(row.site, parts, decided), *ranked.get(row.site, (None, None)))
        for step, row in rows
    ]
    taken = {layer.site for layer in changed}
    lossy = {step.name for step, _ in rows}
    sites = find_sites(model)
    small = sum(site.bytes for site in sites) <= _COUNTED
    kept = [
        _kept(model, site, reasons.get(site.name, ""), count=small)
        for site in sites
        if site.name not in taken and _maker(model, site) not in lossy
    ]
    return changed + kept


def _changed(step: Step, row: Damage, site: str, place: int | None, avoided: float | None) -> Layer:
    weights = row.bytes_before / 4
    return Layer(
        site=site,
        kind=step.name,
        format=row.format,
        bits=8 * row.bytes_after / weights if weights else None,
        sparsity=row.sparsity,
        rank=row.rank,
        error=row.error,
        sqnr=row.sqnr,
        measured_on=row.measured_on,
        predicted_loss=row.predicted_loss,
        bytes_before=row.bytes_before,
        bytes_after=row.bytes_after,
        ms_before=row.ms_before,
        ms_after=row.ms_after,
        why="",
        revert=place,
        avoided=avoided,
    )


def _kept(model: onnx_ir.Model, site: Site, why: str, *, count: bool) -> Layer:
    weight = model.graph.initializers.get(site.weights[0]) if site.weights else None
    tensor = None if weight is None else weight.const_value
    return Layer(
        site=site.name,
        kind=site.kind.value,
        format="float" if tensor is None else tensor.dtype.name.lower(),
        bits=None if tensor is None or not tensor.size else 8 * tensor.nbytes / tensor.size,
        sparsity=_zeros(weight) if count else None,
        rank=None,
        error=None,
        sqnr=None,
        measured_on="",
        predicted_loss=None,
        bytes_before=site.bytes,
        bytes_after=site.bytes,
        ms_before=None,
        ms_after=None,
        why=why,
        revert=None,
        avoided=None,
    )


def _zeros(weight: onnx_ir.Value | None) -> float | None:
    array = constant(weight)
    if array is None or not array.size:
        return None
    return 1.0 - float(np.count_nonzero(array)) / array.size


def _maker(model: onnx_ir.Model, site: Site) -> str:
    """Return the pass that a site's node comes from; empty for a node of the source."""
    if not site.weights or site.weights[0] not in model.graph.initializers:
        return ""
    for node in model.graph.initializers[site.weights[0]].consumers():
        if (node.name or node.op_type) == site.name:
            return str(node.metadata_props.get("whet.from") or "").partition(":")[0]
    return ""


def _parts(model: onnx_ir.Model) -> dict[str, list[str]]:
    """Return the first node that a rewrite took away -> all of them: a site may be called like either."""
    found: dict[str, list[str]] = {}
    for node in model.graph:
        pieces = str(node.metadata_props.get("whet.from") or "").partition(":")[2].split(",")
        found.setdefault(pieces[0], pieces)
    return found


def _named(site: str, parts: Mapping[str, Sequence[str]], decided: Container[str]) -> str:
    """Return what a search calls the site."""
    return next((name for name in (site, *parts.get(site, ())) if name in decided), site)


def _reasons(steps: Sequence[Step]) -> dict[str, str]:
    """Return why each site is as it is: what the last lossy pass said that declined it."""
    found: dict[str, str] = {}
    for step in steps:
        if step.fidelity == Fidelity.LOSSY.value:
            found.update((s, f"{step.name}: {why}") for s, why in step.coverage.declined.items())
    return found
