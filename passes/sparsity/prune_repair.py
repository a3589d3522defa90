"""Repair pruned layers one after the other: their weights are fitted to the outputs that the dense model had."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.activations import open_at
from whet.analysis.statistics import PatchGram
from whet.analysis.statistics.patches import patches
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, attribute_float, attribute_int, constant, is_op
from whet.passes.proposal import Builder, Proposal
from whet.passes.sparsity.prune_refit import Doubles, Moments, refit
from whet.passes.workbench import Workbench

__all__ = ["Pruned", "repair"]

Feeds = Mapping[str, Array]
Kept = NDArray[np.bool_]
_NOTHING = 1e-10
"""An error that is rounding only."""
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
    found: dict[str, float] = {}
    for layer in layers:
        try:
            before, after = _Layer(layer, dense, work).repair()
        except (Mismatch, CannotRun) as reason:
            work.decline(layer.node, f"not repaired: {reason}")
            continue
        found[layer.node.name or ""] = after / before if before > 0 else 1.0
    return found


class _Layer:
    """One layer at work."""

    def __init__(self, layer: Pruned, dense: onnx_ir.Model, work: Workbench) -> None:
        self._layer, self._dense, self._work = layer, dense, work
        self._node = layer.node
        weight = constant(self._node.inputs[1])
        if weight is None:
            raise Mismatch("its weight is computed")
        if is_op(self._node, "Conv") and attribute_int(self._node, "group", 1) != 1:
            raise Mismatch("a grouped convolution sees too few inputs")
        if is_op(self._node, "MatMul") and weight.ndim != 2:
            raise Mismatch("its weight is not a matrix")
        self._weight = weight
        self._bias = self._find_bias()

    def repair(self) -> tuple[float, float]:
        """Fit, judge, and commit what is better; return both errors."""
        context = self._work.context
        fitted = context.calibration
        judged = context.held_out or fitted
        judge = self._moments(judged)
        if judge.error() < _NOTHING:
            return 0.0, 0.0
        change = refit(self._moments(fitted))
        before, after = judge.error(), judge.error(change)
        if after >= before:
            raise Mismatch(f"error {before:.3g} on data held out, {after:.3g} after the fit")
        self._commit(change)
        return before, after

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

    def _moments(self, batches: Sequence[Feeds]) -> Moments:
        work, node = self._work, self._node
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        inputs = self._weight.size // self._outputs
        total = Moments.start(inputs + (self._bias is not None), self._outputs)
        names, threads = [x.name or "", y.name or ""], work.context.threads
        present = _values(work.model, names, batches, threads)
        before = _values(self._dense, [self._layer.dense], batches, threads)
        for (taken, given), (dense,) in zip(present, before, strict=True):
            for rows, wanted, found in self._rows(taken, dense, given):
                total.add(rows, wanted - found, wanted)
        return total

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

    def _commit(self, change: Doubles) -> None:
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


def _values(
    model: onnx_ir.Model, names: Sequence[str], batches: Sequence[Feeds], threads: int
) -> Iterator[list[Array]]:
    """Yield the named values batch by batch, from one session."""
    inputs = {v.name for v in model.graph.inputs}
    inner = [name for name in names if name not in inputs]
    executor = open_at(model, inner, threads, optimization="basic")
    for batch in batches:
        used = {name: array for name, array in batch.items() if name in executor.inputs}
        found = {**batch, **dict(zip(inner, executor.run(used, inner), strict=True))}
        yield [found[name] for name in names]


def _again(
    build: Builder, node: onnx_ir.Node, inputs: Sequence[onnx_ir.Value | None]
) -> onnx_ir.Value:
    return build.op(node.op_type, *inputs, domain=node.domain, attributes=dict(node.attributes))


def _flat(array: Array) -> Doubles:
    return _wide(array.reshape(-1, array.shape[-1]))


def _wide(array: Array) -> Doubles:
    return np.asarray(array, np.float64)
