"""How much a group matters: its weights, what they do to real activations, or the loss that its absence causes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir

from whet.analysis.coupling import Coupled, Family, Group, Slice
from whet.analysis.statistics import Gram, Statistics
from whet.errors import Mismatch
from whet.ir.values import Array, constant, is_op
from whet.passes.sparsity.prune_weights import LAYERS, layer_weights, reading_axis
from whet.passes.workbench import Workbench

__all__ = ["Score", "scores"]

Score = Literal["magnitude", "activation", "taylor", "random"]
Scores = dict[int, float]
_SAMPLES = 64
"""Samples that gradients are averaged over."""


def scores(
    kind: Score, families: Sequence[Family], coupled: Coupled, work: Workbench
) -> Mapping[int, float]:
    """Return a number for every group, by its atom; the smaller, the less is lost without it."""
    groups = [group for family in families for group in family.groups]
    if kind == "random":
        rng = np.random.default_rng(work.context.seed)
        return dict(zip((g.atom for g in groups), rng.random(len(groups)).tolist(), strict=True))
    if kind == "magnitude":
        return _magnitude(groups)
    if not work.context.calibration:
        raise Mismatch("needs calibration data")
    return _activation(groups, coupled, work) if kind == "activation" else _taylor(groups, work)


def _part(part: Slice, array: Array) -> Array:
    return np.take(array, part.indices, part.axis)


def _magnitude(groups: Sequence[Group]) -> Scores:
    """Return Σ ||w||² / ||W||² over the slices w of weights W."""
    energy: dict[onnx_ir.Value, Array] = {}
    found: Scores = defaultdict(float)
    for group in groups:
        for part in group.slices:
            value = part.slot.value
            if value not in energy:
                squares = np.square(_array(value).astype(np.float64))
                energy[value] = squares / max(float(squares.sum()), 1e-30)
            found[group.atom] += float(_part(part, energy[value]).sum())
    return found


def _array(value: onnx_ir.Value) -> Array:
    array = constant(value)
    assert array is not None
    return array


def _activation(groups: Sequence[Group], coupled: Coupled, work: Workbench) -> Scores:
    """Return the energy Σ E[x_i²] ||W_i||² that layers get from a group, as a share of all they get."""
    wanted = {
        slot: frozenset(
            (node.inputs[0].name or "", Gram(1 if "Conv" in node.op_type else -1, exact=False))
            for node, _ in slot.readers
            if is_op(node, *LAYERS) and node.inputs[0] is not None
        )
        for slot in layer_weights(coupled)
    }
    seen = work.analyses.get(Statistics(frozenset().union(*wanted.values())))
    found: Scores = defaultdict(float)
    shares: dict[tuple[onnx_ir.Value, int], Array] = {}
    for group in groups:
        for part in group.slices:
            if not reading_axis(part):
                continue
            key = part.slot.value, part.axis
            if key not in shares:
                power = sum(np.diagonal(seen.of(*request).matrix) for request in wanted[part.slot])
                squares = np.square(_array(part.slot.value).astype(np.float64))
                rest = tuple(k for k in range(squares.ndim) if k != part.axis)
                energy = squares.sum(rest) * power
                shares[key] = energy / max(float(energy.sum()), 1e-30)
            found[group.atom] += float(shares[key][list(part.indices)].sum())
    return {g.atom: found.get(g.atom, 0.0) for g in groups}


def _taylor(groups: Sequence[Group], work: Workbench) -> Scores:
    """Return ½ E[(Σ g w)²] over what reads a group, with g drawn so that E[g gᵀ] is the Fisher matrix.

    Σ g w is the slope of the loss by a gate on the group: Molchanov et al. 2019, squared and summed per group.
    """
    from whet.analysis.curvature.fisher import sample_gradients
    from whet.analysis.curvature.losses import OwnDistribution, OwnValues
    from whet.analysis.curvature.problem import Problem

    parts = {g: [p for p in g.slices if reading_axis(p)] or list(g.slices) for g in groups}
    names = list(dict.fromkeys(p.slot.value.name or "" for ps in parts.values() for p in ps))
    logits = work.graph.outputs[0]
    loss = OwnDistribution() if logits.shape is not None and len(logits.shape) == 2 else OwnValues()
    problem = Problem(work.model, names, _few(work.context.calibration), loss)
    found: Scores = defaultdict(float)
    count = 0
    weights = {p.slot.value.name or "": _array(p.slot.value) for ps in parts.values() for p in ps}
    for gradient in sample_gradients(problem, seed=work.context.seed):
        count += 1
        product = {n: gradient[n].detach().numpy() * weights[n] for n in names}
        sums = _Sums(product)
        for group, slices in parts.items():
            found[group.atom] += sum(sums.of(part) for part in slices) ** 2
    return {g.atom: found[g.atom] / 2 / max(count, 1) for g in groups}


class _Sums:
    """Sums over all but one axis, made once per weight and axis."""

    def __init__(self, products: Mapping[str, Array]) -> None:
        self._products = products
        self._made: dict[tuple[str, int], Array] = {}

    def of(self, part: Slice) -> float:
        key = part.slot.value.name or "", part.axis
        if key not in self._made:
            product = self._products[key[0]]
            rest = tuple(k for k in range(product.ndim) if k != part.axis)
            self._made[key] = product.sum(rest, dtype=np.float64)
        return float(self._made[key][list(part.indices)].sum())


def _few(batches: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """Return the first samples, in batches as they come."""
    found: list[Mapping[str, Array]] = []
    count = 0
    for batch in batches:
        found.append({name: array[: _SAMPLES - count] for name, array in batch.items()})
        count += len(next(iter(batch.values())))
        if count >= _SAMPLES:
            break
    return found
