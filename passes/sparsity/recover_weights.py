"""Give the weights that stay their best numbers, layer by layer on what the pruned network computes.

Each weight in graph order: least squares against the outputs of the network as it was, from inputs x̂ of the network
pruned so far (the sequential scheme of SparseGPT and Optimal Brain Compression), the bias being one more weight.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.activations import observe_together
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Doubles, Floats
from whet.passes.quantization.input_moments import InputMoments, moments_of
from whet.passes.quantization.judging import fitted_and_judged
from whet.passes.sparsity.algorithms.recovery import masked_least_squares
from whet.passes.sparsity.independence import independent
from whet.passes.sparsity.targets import Target, set_bias, set_weight
from whet.passes.workbench import Context

__all__ = ["Recovered", "recover"]

Feeds = Mapping[str, Array]
_Asked = tuple[str, InputMoments]
"""A value, and which of its vectors a weight is multiplied with."""
_TINY = float(np.finfo(np.float32).tiny)
_DAMPINGS = (1e-4, 1e-2, 1.0)


@dataclasses.dataclass(frozen=True)
class Recovered:
    """What became of one weight."""

    matrix: Floats
    bias: Array | None
    """None where it stays as it is."""
    before: float
    """Squared error of the outputs over their square on data held out, without the update."""
    after: float
    """With it; equal to ``before`` where it was not kept."""

    @property
    def kept(self) -> bool:
        """Tell whether the update was kept."""
        return self.after < self.before


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Mean products of a group's inputs before, x, and now, x̂, with a 1 at the end of each."""

    cross: Doubles
    """E[x x̂ᵀ]."""
    new: Doubles
    old: Doubles
    """Zeros where nobody asks for it."""


def recover(
    original: onnx_ir.Model,
    pruned: onnx_ir.Model,
    targets: Sequence[Target],
    start: Mapping[str, Floats],
    masks: Mapping[str, Array],
    context: Context,
) -> dict[str, Recovered]:
    """Update weight after weight in ``pruned``, a copy of ``original`` with the weights of ``start``."""
    nodes = {node.name: node for node in pruned.graph}
    fitted, judged = fitted_and_judged(context.calibration, context.held_out)
    found: dict[str, Recovered] = {}
    for run in independent(targets):
        seen = _Seen(run)
        seen.gather(original, pruned, (fitted, judged), context.threads)
        for target in run:
            fit, judge = seen.pairs(target)
            made = _update(target, start[target.name], masks[target.name], fit, judge)
            found[target.name] = made
            if made.kept:
                set_weight(pruned, target.name, target.stored(made.matrix))
            if made.bias is not None:
                set_bias(pruned, nodes[target.node.name], made.bias)
    return found


def _update(
    target: Target, start: Floats, keep: Array, fit: Sequence[_Pair], judge: Sequence[_Pair]
) -> Recovered:
    """Return the best of several dampings on data held out, or the start where none is better."""
    bias = target.bias()
    zero = np.zeros(len(start))
    before = _error(target, start, zero, judge)
    best = Recovered(start, None, before, before)
    for damping in _DAMPINGS:
        matrix, shift = _solved(target, start, keep, fit, damping, bias is not None)
        after = _error(target, matrix, shift, judge)
        if after < best.after:
            moved = (
                None
                if bias is None
                else np.asarray(np.add(bias, shift, dtype=np.float64), np.float32)
            )
            best = Recovered(matrix, moved, before, after)
    return best


def _solved(
    target: Target,
    start: Floats,
    keep: Array,
    pairs: Sequence[_Pair],
    damping: float,
    takes_bias: bool,
) -> tuple[Floats, Doubles]:
    """Return weights and what is added to the bias."""
    matrices: list[Floats] = []
    shifts: list[Doubles] = []
    for rows, pair in zip(target.groups, pairs, strict=True):
        wanted: Doubles = target.matrix[rows].astype(np.float64)
        new, cross = pair.new[:-1, :-1], pair.cross[:-1, :-1]
        mean_new, mean_old = pair.new[:-1, -1], pair.cross[:-1, -1]
        if takes_bias:
            new = new - np.outer(mean_new, mean_new)
            cross = cross - np.outer(mean_old, mean_new)
        level = damping * max(float(np.diagonal(new).mean()), _TINY)
        system = new + level * np.eye(len(new))
        right = wanted @ cross + level * start[rows]
        solved = masked_least_squares(start[rows], system, keep[rows], right)
        matrices.append(solved)
        shift = wanted @ mean_old - solved @ mean_new
        shifts.append(shift if takes_bias else np.zeros(len(solved)))
    return np.concatenate(matrices), np.concatenate(shifts)


def _error(target: Target, matrix: Floats, shift: Doubles, pairs: Sequence[_Pair]) -> float:
    """Return E||W x - Ŵ x̂ - shift||² / E||W x||²."""
    lost = whole = 0.0
    for rows, pair in zip(target.groups, pairs, strict=True):
        wanted: Doubles = np.pad(target.matrix[rows].astype(np.float64), ((0, 0), (0, 1)))
        made: Doubles = np.column_stack([matrix[rows].astype(np.float64), shift[rows]])
        energy = float(np.vdot(wanted @ pair.old, wanted))
        crossed = float(np.vdot(wanted @ pair.cross, made))
        lost += energy - 2 * crossed + float(np.vdot(made @ pair.new, made))
        whole += energy
    return max(lost, 0.0) / max(whole, np.finfo(float).tiny)


class _Seen:
    """Products of the inputs of some targets, on data to fit on and on data to judge by."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._sums: dict[_Asked, tuple[Doubles, Doubles]] = {}
        for target in targets:
            size = target.matrix.shape[1] + 1
            shape = (target.weight.groups, 3, size, size)
            for node in target.weight.products:
                self._sums.setdefault(_asked(node), (np.zeros(shape), np.zeros(shape)))

    def gather(
        self,
        original: onnx_ir.Model,
        pruned: onnx_ir.Model,
        data: tuple[Sequence[Feeds], Sequence[Feeds]],
        threads: int,
    ) -> None:
        """Run both models once over the data; what is fitted on needs no squares of the original's inputs."""
        names = list(dict.fromkeys(name for name, _ in self._sums))
        old, new = (
            observe_together(model, names, itertools.chain(*data), threads)
            for model in (original, pruned)
        )
        kinds = [kind for kind in (0, 1) for _ in range(len(data[kind]))]
        for kind, before, now in zip(kinds, old, new, strict=True):
            for (name, asked), sums in self._sums.items():
                _add(sums[kind], asked, before[name], now[name], squares=kind == 1)

    def pairs(self, target: Target) -> tuple[list[_Pair], list[_Pair]]:
        """Return the means for each group, over all readers that multiply with the weight."""
        parts = [self._sums[_asked(node)] for node in target.weight.products]
        fit, judge = (np.sum(kind, axis=0) for kind in zip(*parts, strict=True))
        return _means(fit), _means(judge)


def _asked(node: onnx_ir.Node) -> _Asked:
    asked, operand = moments_of(node), node.inputs[0]
    assert asked is not None
    assert operand is not None
    return operand.name or "", asked


def _add(sums: Doubles, asked: InputMoments, before: Array, now: Array, *, squares: bool) -> None:
    both = zip(_rows(asked, before), _rows(asked, now), strict=True)
    for total, (x, y) in zip(sums, both, strict=True):
        total[0] += x.T @ y
        total[1] += y.T @ y
        if squares:
            total[2] += x.T @ x


def _means(sums: Doubles) -> list[_Pair]:
    return [_Pair(*(total / max(float(total[1, -1, -1]), 1.0))) for total in sums]


def _rows(asked: InputMoments, array: Array) -> Iterator[Floats]:
    """Yield vectors with a 1 at the end, for each group."""
    for rows in asked.vectors(array):
        yield np.asarray(np.column_stack([rows, np.ones(len(rows))]), np.float32)
