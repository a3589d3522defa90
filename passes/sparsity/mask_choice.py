"""Choose which weights go, by the method and budget that the pass was given."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whet.errors import Mismatch
from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles, Floats, output_error
from whet.passes.quantization.layers import measure_grams
from whet.passes.sparsity.algorithms.pattern import Pattern
from whet.passes.sparsity.algorithms.recovery import damped, masked_least_squares
from whet.passes.sparsity.algorithms.swaps import exchange
from whet.passes.sparsity.pricing import Priced, by_gram, by_magnitude, by_wanda
from whet.passes.sparsity.second_order import Task, prune_by_fisher, prune_by_gradients
from whet.passes.sparsity.shares import counts_of
from whet.passes.sparsity.targets import Target
from whet.passes.workbench import Workbench

if TYPE_CHECKING:
    from whet.passes.sparsity.sparsify_weights import SparsifyWeights

__all__ = ["Chosen", "choose"]

_DAMPING = 1e-3


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Masks, first weights and how they were found, by name."""

    masks: Mapping[str, Array]
    weights: Mapping[str, Floats]
    how: Mapping[str, str]


def choose(
    options: "SparsifyWeights", work: Workbench, pattern: Pattern, targets: Sequence[Target]
) -> Chosen:
    """Return masks for all targets; raises Mismatch where the method lacks data, or torch."""
    data = bool(work.context.calibration)
    method = options.method if options.method != "auto" else ("gram" if data else "magnitude")
    if method != "magnitude" and not data:
        raise Mismatch(f"method={method} needs calibration data")
    if method in ("fisher", "mfac"):
        return _by_loss(options, work, pattern, targets, method)
    makers: dict[str, Callable[[Target], Priced]] = {
        "magnitude": lambda t: _relative(by_magnitude(t, pattern)),
        "wanda": lambda t: _relative(by_wanda(t, pattern)),
        "gram": lambda t: by_gram(t, pattern),
    }
    priced = [makers[method](t) for t in targets]
    counts = _counts(options, work, pattern, priced)
    masks = {p.target.name: p.mask(n) for p, n in zip(priced, counts, strict=True)}
    how: dict[str, str] = dict.fromkeys(masks, method)
    if options.method == "auto" and data:
        _compare(work, pattern, targets, counts, masks, how)
    if options.surgeon and data:
        masks = {t.name: _exchanged(t, masks[t.name], pattern) for t in targets}
        how = {name: f"{said} and exchange" for name, said in how.items()}
    weights = {t.name: np.where(masks[t.name], t.matrix, np.float32(0)) for t in targets}
    return Chosen(masks, weights, how)


def _counts(
    options: "SparsifyWeights", work: Workbench, pattern: Pattern, priced: Sequence[Priced]
) -> list[int]:
    return counts_of(work, priced, pattern, options.budget, options.sparsity, options.floor)


def _relative(priced: Priced) -> Priced:
    """Return prices as shares of the layer's sum, so that they can be compared between layers."""
    whole = max(float(priced.prices.sum()), np.finfo(float).tiny)
    return dataclasses.replace(priced, prices=priced.prices / whole)


def _compare(
    work: Workbench,
    pattern: Pattern,
    targets: Sequence[Target],
    counts: Sequence[int],
    masks: dict[str, Array],
    how: dict[str, str],
) -> None:
    """Take magnitudes for the weights where they lose less on data held out, with updates in both cases."""
    weights = [t.weight for t in targets]
    held = measure_grams(work.model, weights, work.context, work.context.judge)
    for target, count in zip(targets, counts, strict=True):
        plain = by_magnitude(target, pattern).mask(count)
        grams = held[target.weight.value]
        losses = [_loss(target, mask, grams) for mask in (plain, masks[target.name])]
        if losses[0] < losses[1]:
            masks[target.name], how[target.name] = plain, "magnitude"


def _loss(target: Target, mask: Array, held: Sequence[Doubles]) -> float:
    """Return the error of the outputs on data held out after the closed-form update."""
    lost = 0.0
    for rows, gram, judge in zip(target.groups, target.grams, held, strict=True):
        best = masked_least_squares(target.matrix[rows], damped(gram, _DAMPING), mask[rows])
        lost += output_error(target.matrix[rows], best, judge)
    return lost


def _exchanged(target: Target, mask: Array, pattern: Pattern) -> Array:
    members = pattern.members if pattern.share is not None else None
    parts = [
        exchange(target.matrix[rows], damped(gram, _DAMPING), mask[rows], members=members)
        for rows, gram in zip(target.groups, target.grams, strict=True)
    ]
    return np.concatenate(parts)


def _by_loss(
    options: "SparsifyWeights",
    work: Workbench,
    pattern: Pattern,
    targets: Sequence[Target],
    method: str,
) -> Chosen:
    def counts(priced: Sequence[Priced]) -> list[int]:
        return _counts(options, work, pattern, priced)

    task = Task(work, targets, pattern, counts, options.gradients, options.likelihood)
    found = prune_by_fisher(task) if method == "fisher" else prune_by_gradients(task)
    return Chosen(found.masks, found.weights, dict.fromkeys(found.masks, found.how))
