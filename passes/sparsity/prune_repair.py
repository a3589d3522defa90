"""Repair pruned layers one after the other: their weights are fitted to the outputs that the dense model had."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.activations import observe_together
from whet.analysis.statistics import PatchGram
from whet.analysis.statistics.patches import patches
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, attribute_float, attribute_int, constant, is_op
from whet.passes.proposal import Builder, Proposal
from whet.passes.sparsity.independence import independent
from whet.passes.sparsity.prune_refit import Doubles, Moments, refit
from whet.passes.workbench import Workbench

__all__ = ["Pruned", "repair"]

Feeds = Mapping[str, Array]
Kept = NDArray[np.bool_]
_NOTHING = 1e-10
"""An error that is rounding only."""
_ENOUGH = 32
"""Rows for each number of a row: a fit to so many is wrong by a thirtieth of what it leaves."""
_PLACES = 64
"""Patches of each sample that a convolution is fitted to, evenly spread."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pruned:
    """A layer of which something went, and its output in the dense model."""

    node: onnx_ir.Node
    dense: str
    """The name of the value in the dense model."""
    kept: Kept | None
    """Which of its channels are left; None where all are."""


def repair(layers: Sequence[Pruned], dense: onnx_ir.Model, work: Workbench) -> dict[str, float]:
    """Refit layers in graph order where that lowers the error on data held out; return the errors before and after.

    Each is fitted on what the layers in front of it, already repaired, hand to it.
    """
    open_ones: list[_Layer] = []
    for layer in layers:
        try:
            open_ones.append(_Layer(layer, work))
        except Mismatch as reason:
            work.decline(layer.node, f"not repaired: {reason}")
    found: dict[str, float] = {}
    for run in independent(open_ones):
        found.update(_repaired(run, dense, work))
    return found


def _repaired(run: Sequence["_Layer"], dense: onnx_ir.Model, work: Workbench) -> dict[str, float]:
    """Fit, judge, and commit what is better; return by what the errors were multiplied."""
    context = work.context
    judges = _gathered(run, dense, work, context.held_out or context.calibration)
    wrong = [layer for layer, judge in judges.items() if judge.error() >= _NOTHING]
    fits = _gathered(wrong, dense, work, context.calibration)
    found = {layer.name: 1.0 for layer in judges if layer not in wrong}
    for layer, fit in fits.items():
        change = refit(fit)
        before, after = judges[layer].error(), judges[layer].error(change)
        if after < before:
            layer.commit(change)
            found[layer.name] = after / before
        else:
            layer.decline(f"error {before:.3g} on data held out, {after:.3g} after the fit")
    return found


def _gathered(
    run: Sequence["_Layer"], dense: onnx_ir.Model, work: Workbench, batches: Sequence[Feeds]
) -> "dict[_Layer, Moments]":
    """Return the moments of layers from one run of both models; decline where there are none."""
    sums = {layer: layer.start() for layer in run}
    names = list(dict.fromkeys(name for layer in run for name in layer.reads))
    wanted = list(dict.fromkeys(layer.dense for layer in run))
    threads = work.context.threads
    try:
        present = observe_together(work.model, names, _spread(batches), threads)
        before = observe_together(dense, wanted, _spread(batches), threads)
        for now, old in zip(present, before, strict=True) if run else ():
            for layer in list(sums):
                try:
                    layer.add(sums[layer], now, old)
                except Mismatch as reason:
                    layer.decline(str(reason))
                    del sums[layer]
            if all(total.rows >= _ENOUGH * len(total.gram) for total in sums.values()):
                break
    except CannotRun as reason:
        for layer in sums:
            layer.decline(str(reason))
        return {}
    return sums


def _spread(batches: Sequence[Feeds]) -> Iterator[Feeds]:
    """Yield batches in an order of which the first few stand for all: fractions of multiples of the golden ratio."""
    golden = (1 + math.sqrt(5)) / 2
    return (batches[k] for k in sorted(range(len(batches)), key=lambda k: k * golden % 1))


class _Layer:
    """One layer at work."""

    def __init__(self, layer: Pruned, work: Workbench) -> None:
        self._layer, self._work = layer, work
        self._node = layer.node
        weight = constant(self._node.inputs[1])
        if weight is None:
            raise Mismatch("its weight is computed")
        if is_op(self._node, "Conv") and attribute_int(self._node, "group", 1) != 1:
            raise Mismatch("a grouped convolution sees too few inputs")
        if is_op(self._node, "MatMul") and weight.ndim != 2:
            raise Mismatch("its weight is not a matrix")
        self._bias = self._find_bias()

    @property
    def _weight(self) -> Array:
        weight = constant(self._node.inputs[1])
        assert weight is not None
        return weight

    @property
    def name(self) -> str:
        """Return the name of the operator."""
        return self._node.name or ""

    @property
    def dense(self) -> str:
        """Return the name of its output in the dense model."""
        return self._layer.dense

    @property
    def reads(self) -> tuple[str, str]:
        """Return the names of its input and its output."""
        x, y = self._node.inputs[0], self._node.outputs[0]
        assert x is not None
        return x.name or "", y.name or ""

    @property
    def changed(self) -> tuple[onnx_ir.Node, ...]:
        """Return the nodes that the fit replaces."""
        return (self._node,) if self._bias is None else (self._node, self._bias[0])

    @property
    def gathered_bytes(self) -> int:
        """Return the bytes of the moments to fit on and to judge by."""
        size = len(self.start().gram)
        return 2 * 8 * size * (size + self._outputs)

    def decline(self, reason: str) -> None:
        """Leave the layer as it is."""
        self._work.decline(self._node, f"not repaired: {reason}")

    def _find_bias(self) -> tuple[onnx_ir.Node, int] | None:
        """Return where a bias is, or could be, added: at the operator, or in the sum behind it."""
        node = self._node
        if is_op(node, "Conv", "Gemm"):
            if is_op(node, "Gemm") and (
                attribute_float(node, "beta", 1.0) != 1.0
                or attribute_float(node, "alpha", 1.0) != 1.0
            ):
                raise Mismatch("its product is scaled")
            return node, 2
        readers = list(node.outputs[0].consumers())
        if len(readers) == 1 and is_op(readers[0], "Add"):
            for place, value in enumerate(readers[0].inputs):
                found = constant(value)
                if found is not None and found.ndim == 1 and found.size == self._outputs:
                    return readers[0], place
        return None

    @property
    def _outputs(self) -> int:
        turned = is_op(self._node, "MatMul") or not attribute_int(self._node, "transB", 0)
        return self._weight.shape[0 if is_op(self._node, "Conv") or not turned else 1]

    def start(self) -> Moments:
        """Return moments of nothing."""
        inputs = self._weight.size // self._outputs
        return Moments.start(inputs + (self._bias is not None), self._outputs)

    def add(self, total: Moments, now: Feeds, before: Feeds) -> None:
        """Count one batch: values of the present model, and of the dense one; raises Mismatch."""
        taken, given = (now[name] for name in self.reads)
        for rows, wanted, found in self._rows(taken, before[self.dense], given):
            total.add(rows, wanted - found, wanted)

    def _rows(
        self, x: Array, dense: Array, now: Array
    ) -> Iterator[tuple[Doubles, Doubles, Doubles]]:
        """Yield inputs, wanted and present outputs, one sample per row."""
        if not is_op(self._node, "Conv"):
            kept = self._layer.kept
            wanted = dense if kept is None else dense[..., kept]
            yield self._ones(_flat(x)), _flat(wanted), _flat(now)
            return
        options = PatchGram.of(self._node, per_sample=_PLACES)
        (rows,) = patches(x, options)
        wanted = dense if self._layer.kept is None else dense[:, self._layer.kept]
        ones = dataclasses.replace(
            options, kernel=(1,) * (x.ndim - 2), strides=(), pads=(), dilations=()
        )
        (outputs,), (present,) = patches(wanted, ones), patches(now, ones)
        if len(outputs) != len(rows):
            raise Mismatch("its patches do not line up with its outputs")
        yield self._ones(rows.astype(np.float64)), _wide(outputs), _wide(present)

    def _ones(self, rows: Doubles) -> Doubles:
        return rows if self._bias is None else np.concatenate([rows, np.ones((len(rows), 1))], 1)

    def commit(self, change: Doubles) -> None:
        node, build = self._node, self._work.builder(self._node)
        shift = None if self._bias is None else change[:, -1]
        matrix = change if self._bias is None else change[:, :-1]
        turned = is_op(node, "MatMul") or (
            is_op(node, "Gemm") and not attribute_int(node, "transB", 0)
        )
        arranged = matrix.T if turned else matrix.reshape(self._weight.shape)
        weight = (_wide(self._weight) + arranged).astype(self._weight.dtype)
        inputs: list[onnx_ir.Value | None] = list(node.inputs)
        inputs[1] = build.constant(weight, node.inputs[1].name or "" if node.inputs[1] else "")
        outer = node
        if self._bias is not None and self._bias[0] is node:
            inputs[2:] = [self._shifted(build, inputs[2] if len(inputs) > 2 else None, shift)]
        made = _again(build, node, inputs)
        if self._bias is not None and self._bias[0] is not node:
            outer, place = self._bias
            added = self._shifted(build, outer.inputs[place], shift)
            pair = [made, added] if place == 1 else [added, made]
            made = _again(build, outer, pair)
        old = tuple(dict.fromkeys((outer, node)))
        proposal = Proposal(
            old, ((outer.outputs[0], made),), tuple(build.nodes), tuple(build.initializers)
        )
        self._work.accept(proposal, "error on data held out")

    def _shifted(
        self, build: Builder, old: onnx_ir.Value | None, shift: Doubles | None
    ) -> onnx_ir.Value:
        before = constant(old)
        assert shift is not None
        total = shift if before is None else _wide(before) + shift
        name = "" if old is None else old.name or ""
        return build.constant(np.asarray(total, self._weight.dtype), name)


def _again(
    build: Builder, node: onnx_ir.Node, inputs: Sequence[onnx_ir.Value | None]
) -> onnx_ir.Value:
    return build.op(node.op_type, *inputs, domain=node.domain, attributes=dict(node.attributes))


def _flat(array: Array) -> Doubles:
    return _wide(array.reshape(-1, array.shape[-1]))


def _wide(array: Array) -> Doubles:
    return np.asarray(array, np.float64)
