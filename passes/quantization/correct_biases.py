"""Correct the mean error that quantization left in every channel."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.activations import observe
from whet.analysis.channel_layout import is_linear
from whet.analysis.channel_statistics import Channels
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, constant, is_constant, is_op, rank
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.arrays import affine, dequantize, quantize
from whet.passes.quantization.algorithms.formats import INT8_ACTIVATION, UINT8
from whet.passes.quantization.integer_spelling import decode
from whet.passes.quantization.judging import Feeds, fitted_and_judged
from whet.passes.workbench import Workbench

__all__ = ["CorrectBiases"]

Floats = NDArray[np.float64]
_SEEN_THROUGH = ("QuantizeLinear", "DequantizeLinear", "Relu", "LeakyRelu", "Clip", "Identity")
_OPERAND = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMulNBits": 5}
"""Operator -> which operand is its bias."""


@dataclasses.dataclass(frozen=True)
class CorrectBiases(Pass):
    """Add ``E[y] - E[ŷ]`` per channel to the bias of every operator that a lossy pass has replaced.

    y are the outputs of the linear operator before, ŷ those now, both in the whole network on calibration data; they
    are visited in order, so that each sees what the corrections before it left. A correction stays if it lowers the
    squared error of the output on calibration data that it was not computed from. Runs behind the passes that quantize.
    Nagel et al., "Data-free quantization" (2019), and "A white paper on neural network quantization" (2021).
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    compares: ClassVar[bool] = True

    batches: int = option(8, at_least=1)
    """So many batches of calibration data are used."""

    def apply(self, work: Workbench) -> None:
        """Visit what lossy passes replaced, in the order of the graph."""
        original = work.context.original
        if original is None:
            return
        sites = list(_sites(original, work))
        work.coverage.matched += len(sites)
        if not work.context.calibration:
            for site in sites:
                work.decline(site.node, "needs calibration data")
            return
        fitted, held_out = fitted_and_judged(work.context.calibration[: self.batches])
        try:
            wanted = [_means(original, sites, part, work, old=True) for part in (fitted, held_out)]
        except CannotRun as error:
            for site in sites:
                work.decline(site.node, f"the original cannot be observed: {error}")
            return
        for number, site in enumerate(sites):
            try:
                _correct(site, [found[number] for found in wanted], (fitted, held_out), work)
            except (Mismatch, CannotRun) as reason:
                work.decline(site.node, str(reason))


@dataclasses.dataclass(frozen=True, eq=False)
class _Site:
    """An operator with a bias, and the value of the original that its output stands for."""

    node: onnx_ir.Node
    operand: int
    original: str
    axis: int

    @property
    def value(self) -> onnx_ir.Value:
        return self.node.outputs[0]


def _sites(original: onnx_ir.Model, work: Workbench) -> Iterator[_Site]:
    """Yield operators that stand for a linear operator of the original, in the order of the original."""
    present = {old: new for new, old in work.context.lineage.items()}
    values = {v.name: v for node in work.graph for v in node.outputs}
    seen: set[onnx_ir.Node] = set()
    for node in original.graph:
        if not is_linear(node):
            continue
        sums = _sum_behind(node)
        own = present.get(node.outputs[0].name or "")
        for behind in _behind(sums):
            name = behind.name or ""
            # An addition of the bias stays as it was where only the product in front of it was replaced.
            kept = name if own is not None and behind is sums else ""
            value = values.get(present.get(name, kept))
            if value is None:
                continue
            site = _holder(value, sums, rank(sums))
            if site is not None and site.node not in seen:
                seen.add(site.node)
                yield site
            break


def _sum_behind(node: onnx_ir.Node) -> onnx_ir.Value:
    """Return the result of a linear operator with its bias."""
    value = node.outputs[0]
    readers = list(value.consumers())
    sole = len(value.uses()) == 1 and not value.is_graph_output()
    if sole and is_op(readers[0], "Add") and any(is_constant(v) for v in readers[0].inputs):
        return readers[0].outputs[0]
    return value


def _behind(value: onnx_ir.Value) -> Iterator[onnx_ir.Value]:
    yield value
    for node in value.consumers():
        if is_op(node, "Relu", "LeakyRelu", "Clip"):
            yield node.outputs[0]


def _holder(value: onnx_ir.Value, old: onnx_ir.Value, size: int | None) -> _Site | None:
    """Return the nearest operator upstream that adds a bias."""
    node = value.producer()
    while node is not None and is_op(node, *_SEEN_THROUGH):
        before = node.inputs[0]
        node = None if before is None else before.producer()
    if node is None or size is None:
        return None
    if is_op(node, "Add"):
        operand = next((k for k, v in enumerate(node.inputs) if _is_fixed(v)), None)
        return None if operand is None else _Site(node, operand, old.name or "", size - 1)
    if node.op_type not in _OPERAND:
        return None
    axis = 1 if is_op(node, "Conv", "ConvTranspose") else size - 1
    return _Site(node, _OPERAND[node.op_type], old.name or "", axis)


def _is_fixed(value: onnx_ir.Value | None) -> bool:
    """Tell whether a value is a constant, as it is or in integers."""
    node = None if value is None else value.producer()
    coded = node is not None and is_op(node, "DequantizeLinear") and is_constant(node.inputs[0])
    return coded or is_constant(value)


def _means(
    model: onnx_ir.Model,
    sites: Sequence[_Site],
    batches: Sequence[Feeds],
    work: Workbench,
    *,
    old: bool = False,
) -> list[Floats]:
    """Return the mean of every channel of the sites' outputs, in the original or as they are now."""
    names = [site.original if old else site.value.name or "" for site in sites]
    sums = {n: Channels(s.axis).start() for n, s in zip(names, sites, strict=True)}
    for name, array in observe(model, list(sums), batches, threads=work.context.threads):
        sums[name].add(array)
    return [sums[name].result().mean for name in names]


def _correct(
    site: _Site,
    wanted: Sequence[Floats],
    parts: tuple[Sequence[Feeds], Sequence[Feeds]],
    work: Workbench,
) -> None:
    """Propose the correction of one bias."""
    errors = [
        mean - _means(work.model, [site], part, work)[0]
        for mean, part in zip(wanted, parts, strict=True)
    ]
    build = work.builder(site.node)
    bias, added = _new_bias(site, errors[0], build)
    gain = float((2 * added * errors[1] - added**2).sum())
    if not gain > 0:
        Proposal((site.node,), (), tuple(build.nodes)).discard()
        raise Mismatch("the mean error is no different from noise on data held out")
    inputs = [*site.node.inputs, *[None] * (site.operand + 1 - len(site.node.inputs))]
    inputs[site.operand] = bias
    node = site.node
    new = build.op(node.op_type, *inputs, domain=node.domain, attributes=node.attributes)
    proposal = Proposal(
        (node,), ((node.outputs[0], new),), tuple(build.nodes), tuple(build.initializers)
    )
    work.accept(proposal, "mean error on data held out")


def _new_bias(site: _Site, error: Floats, build: Builder) -> tuple[onnx_ir.Value, Floats]:
    """Return the corrected bias, and what was added to it after rounding."""
    node = site.node
    old = node.inputs[site.operand] if site.operand < len(node.inputs) else None
    if old is None:
        data = None if node.inputs[0] is None else node.inputs[0].producer()
        if is_op(data, "DequantizeLinear"):
            raise Mismatch("an integer operator without a bias: one would have to be added")
        return build.constant(error.astype(np.float32)), error
    array = constant(old)
    if array is not None:
        _check_vector(array, error, site)
        total = (array.reshape(-1).astype(np.float64) + error).astype(array.dtype)
        shape = array.shape if array.size == error.size else error.shape
        made = build.constant(total.reshape(shape), old.name or "")
        return made, total.astype(np.float64) - array.reshape(-1).astype(np.float64)
    return _integer_bias(old, error, build)


def _check_vector(array: Array, error: Floats, site: _Site) -> None:
    last = array.size == 1 or array.shape[-1] == array.size
    if array.size not in (1, error.size) or not last:
        raise Mismatch(f"the bias of shape {array.shape} is no vector of {error.size} channels")


def _integer_bias(
    old: onnx_ir.Value, error: Floats, build: Builder
) -> tuple[onnx_ir.Value, Floats]:
    """Return a bias of integers corrected by whole steps."""
    node = old.producer()
    parts = [constant(v) for v in node.inputs] if is_op(node, "DequantizeLinear") and node else []
    if node is None or len(parts) < 2 or parts[0] is None or parts[1] is None:
        raise Mismatch("the bias is computed")
    if parts[0].dtype.itemsize == 1:
        return _coarse_bias(old, parts, error, build)
    if len(parts) > 2 and parts[2] is not None and np.any(parts[2]):
        raise Mismatch("the integers of the bias have a zero point")
    steps, scale = parts[0].astype(np.int64), parts[1].astype(np.float64)
    limits = np.iinfo(parts[0].dtype.name)
    moved = np.clip(steps + np.rint(error / scale).astype(np.int64), limits.min, limits.max)
    integers = build.constant(moved.astype(parts[0].dtype), f"{old.name}.steps")
    made = build.op("DequantizeLinear", integers, *node.inputs[1:], attributes=node.attributes)
    return made, np.asarray((moved - steps) * scale)


def _coarse_bias(
    old: onnx_ir.Value, parts: Sequence[Array | None], error: Floats, build: Builder
) -> tuple[onnx_ir.Value, Floats]:
    """Return an operand of a sum in eight bits, corrected and put on a grid of its own."""
    codes, scale, zero = (*parts, None)[:3]
    if codes is None or scale is None or scale.size != 1 or codes.size not in (1, error.size):
        raise Mismatch("the operand of the sum is no vector with one scale")
    middle = 0 if zero is None else int(zero.reshape(-1)[0])
    before = (codes.reshape(-1).astype(np.float64) - middle) * float(scale.reshape(-1)[0])
    total = (before + error).astype(np.float32)
    fmt = UINT8 if codes.dtype == np.uint8 else INT8_ACTIVATION
    grid = affine(float(total.min()), float(total.max()), fmt)
    integers = quantize(total, grid)
    shape = codes.shape if codes.size == error.size else error.shape
    stored = build.constant(integers.reshape(shape), f"{old.name}.steps")
    real = decode(build, stored, grid, old.name or "bias")
    return real, dequantize(integers, grid).astype(np.float64) - before
