"""Masks and weights from gradients of the loss: Fisher blocks (oBERT) and M-FAC, dampings judged on data held out."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir

from whet.analysis.output_damage import OutputError
from whet.errors import Mismatch
from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles, Floats
from whet.passes.sparsity.algorithms import matrix_free
from whet.passes.sparsity.algorithms.fisher_blocks import FisherBlocks, block_size, steadied
from whet.passes.sparsity.algorithms.pattern import Pattern
from whet.passes.sparsity.algorithms.recovery import masked_least_squares
from whet.passes.sparsity.gradients import Likelihood, loss_gradients
from whet.passes.sparsity.pricing import Priced, by_fisher
from whet.passes.sparsity.targets import Target, with_weights
from whet.passes.workbench import Workbench

__all__ = ["Pruned", "Task", "judged", "prune_by_fisher", "prune_by_gradients"]

_TRUST = (0.1, 0.5)
"""Shares of the Gram matrix in the Fisher blocks that are tried."""
_DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean of the Fisher diagonal that are tried: too little is worse than magnitudes (Kurtic et al.)."""
_STAGES = 3
_BYTES = 1 << 30
_MOST_BYTES = 1 << 32
_JUDGES = 512
_TOGETHER = 64
"""Gradients that are multiplied at once."""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """Masks and weights of all targets, by name."""

    masks: dict[str, Array]
    weights: dict[str, Floats]
    how: str
    error: float
    """||new - old|| / ||old|| of the model's outputs on data held out."""


Counts = Callable[[Sequence[Priced]], list[int]]
"""Prices -> how many units each weight loses."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be pruned, and from which gradients."""

    work: Workbench
    targets: Sequence[Target]
    pattern: Pattern
    counts: Counts
    gradients: int
    likelihood: Likelihood

    def drawn(self) -> Iterator[tuple[dict[str, Array], int]]:
        """Yield gradients by weight, and of how many samples each is."""
        names, context = [t.name for t in self.targets], self.work.context
        return loss_gradients(
            self.work.model,
            names,
            context.calibration,
            self.gradients,
            self.likelihood,
            context.seed,
        )

    def judge(self) -> OutputError:
        """Return what measures the outputs' error."""
        return OutputError(self.work.model, self.work.context, _JUDGES)


def prune_by_fisher(task: Task) -> Pruned:
    """Prune by Fisher blocks, as much steadied as is best."""
    targets, blocks, judge = task.targets, _measure(task), task.judge()
    found: list[Pruned] = []
    for trust in _TRUST:
        hessians = {t.name: _steadied(t, blocks[t.name], trust) for t in targets}
        priced = [by_fisher(t, task.pattern, hessians[t.name]) for t in targets]
        wanted = task.counts(priced)
        masks = {p.target.name: p.mask(n) for p, n in zip(priced, wanted, strict=True)}
        weights = {t.name: _updated(t, hessians[t.name], masks[t.name]) for t in targets}
        how = f"Fisher blocks with {trust:.0%} Gram"
        found.append(Pruned(masks, weights, how, judged(task.work, targets, weights, judge)))
    return min(found, key=lambda p: p.error)


def _measure(task: Task) -> dict[str, FisherBlocks]:
    targets, pattern = task.targets, task.pattern
    share = _BYTES // max(len(targets), 1)
    unit = pattern.members if pattern.share is not None else pattern.width
    sums = {t.name: _blocks_for(t, share, unit) for t in targets}
    held: list[dict[str, Array]] = []
    samples = 0
    for gradient, count in task.drawn():
        held.append(gradient)
        samples += count
        if len(held) == _TOGETHER:
            _flush(targets, sums, held, samples)
            held, samples = [], 0
    if held:
        _flush(targets, sums, held, samples)
    return sums


def _blocks_for(target: Target, limit: int, unit: int) -> FisherBlocks:
    outputs, inputs = target.matrix.shape
    return FisherBlocks(outputs, inputs, block_size(outputs, inputs, limit, unit))


def _flush(
    targets: Sequence[Target],
    sums: dict[str, FisherBlocks],
    held: Sequence[dict[str, Array]],
    samples: int,
) -> None:
    for target in targets:
        rows = np.stack([target.weight.arranged(g[target.name]) for g in held])
        sums[target.name].add(rows, samples)


def _steadied(target: Target, blocks: FisherBlocks, trust: float) -> Doubles:
    parts = np.split(blocks.mean(), target.weight.groups)
    return np.concatenate(
        [steadied(f, gram, trust) for f, gram in zip(parts, target.grams, strict=True)]
    )


def _updated(target: Target, hessian: Doubles, keep: Array) -> Floats:
    """Return the best remaining weights by the same second derivative."""
    size = hessian.shape[-1]
    rows, mask = target.matrix.reshape(-1, size), keep.reshape(-1, size)
    return masked_least_squares(rows, hessian, mask).reshape(target.matrix.shape)


def judged(
    work: Workbench, targets: Sequence[Target], weights: dict[str, Floats], judge: OutputError
) -> float:
    """Return ||new - old|| / ||old|| of the outputs with other weights."""
    return judge.of(onnx_ir.to_proto(with_weights(work.model, targets, weights)))


def prune_by_gradients(task: Task) -> Pruned:
    """Prune by M-FAC in a few stages, with the damping that is best on data held out."""
    targets, gradients = task.targets, task.gradients
    total = sum(t.matrix.size for t in targets)
    if 4 * gradients * total > _MOST_BYTES:
        raise Mismatch(
            f"{gradients} gradients of {total:,} weights take {4 * gradients * total / 1e9:.1f} GB,"
            f" {_MOST_BYTES / 1e9:.1f} are allowed; method=fisher needs no more than its blocks"
        )
    rows, samples = _gathered(task)
    # Each row is a sum over independent draws of several samples, so that g gᵀ / samples has the right mean.
    rows *= np.sqrt(np.float32(len(rows) / samples))
    level = float(np.square(rows).mean(dtype=np.float64)) or 1.0
    judge = task.judge()
    found: list[Pruned] = []
    for damping in _DAMPINGS:
        masks, weights = _staged(targets, task.pattern, task.counts, rows, damping * level)
        how = f"M-FAC, damping {damping:g}"
        found.append(Pruned(masks, weights, how, judged(task.work, targets, weights, judge)))
    return min(found, key=lambda p: p.error)


def _gathered(task: Task) -> tuple[Floats, int]:
    """Return ``[gradients, weights]`` over all targets, and how many samples they are of."""
    total = sum(t.matrix.size for t in task.targets)
    rows: Floats = np.empty((task.gradients, total), np.float32)
    samples = 0
    for row, (found, count) in enumerate(task.drawn()):
        parts = [t.weight.arranged(found[t.name]).reshape(-1) for t in task.targets]
        np.concatenate(parts, out=rows[row])
        samples += count
    return rows, samples


def _staged(
    targets: Sequence[Target], pattern: Pattern, counts: Counts, rows: Floats, damping: float
) -> tuple[dict[str, Array], dict[str, Floats]]:
    """Remove in stages, so that later prices know what earlier removals moved."""
    weights: Doubles = np.concatenate([t.matrix.reshape(-1) for t in targets]).astype(np.float64)
    alive = np.ones(weights.size, np.bool)
    for stage in range(1, _STAGES + 1):
        prices = matrix_free.prices(weights, rows, alive, damping)
        prices[~alive] = -np.inf
        priced = [
            Priced(t, pooled, functools.partial(pattern.keep, pooled))
            for t, part in zip(targets, _split(prices, targets), strict=True)
            for pooled in [pattern.pooled(part)]
        ]
        wanted = [n * stage // _STAGES for n in counts(priced)]
        if pattern.share is not None:
            wanted = counts(priced)
        keep = [p.mask(n) for p, n in zip(priced, wanted, strict=True)]
        stays = np.concatenate([np.asarray(k, np.bool_).reshape(-1) for k in keep])
        weights = matrix_free.moved(weights, rows, alive, alive & ~stays, damping)
        alive &= stays
        if pattern.share is not None:
            break
    masks = {t.name: part for t, part in zip(targets, _split(alive, targets), strict=True)}
    values = {
        t.name: np.asarray(part, np.float32)
        for t, part in zip(targets, _split(weights, targets), strict=True)
    }
    return masks, values


def _split(flat: Array, targets: Sequence[Target]) -> list[Array]:
    """Return one matrix for each target."""
    ends = np.cumsum([t.matrix.size for t in targets])[:-1]
    return [
        part.reshape(t.matrix.shape) for part, t in zip(np.split(flat, ends), targets, strict=True)
    ]
