"""int8 MatMul and Gemm with scales for the activations fixed beforehand."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.activations import Sampler, first_samples, observed_shapes
from whet.analysis.base import Analysis
from whet.analysis.prices import KernelModel
from whet.analysis.ranges import Range, Ranges
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.kernels import kernel, noise
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.activation_range import Fit, dynamic_error, fit_range
from whet.passes.quantization.algorithms.arrays import (
    Affine,
    affine,
    dequantize,
    quantize,
    symmetric,
)
from whet.passes.quantization.algorithms.formats import INT7, INT8, UINT8, IntegerFormat
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.integer_spelling import decode, encode
from whet.passes.quantization.linear import Linear, linear_sites
from whet.passes.workbench import Workbench

__all__ = ["QuantizeLinearStatic"]

_STATIC, _DYNAMIC = "static", "dynamic"
_OPSET = 13
_WORTH = 1.02
"""Scales that are known may take up to this share of the time of scales that are computed: they also leave every
sample by itself, which lets a batch run in parts."""


@dataclasses.dataclass(frozen=True)
class QuantizeLinearStatic(Pass):
    """Replace ``x W + b`` by ``DQ(Q(x)) DQ(W8) + b`` with one grid for x, found on calibration data.

    Nobody looks for the range of an activation while the model runs. The grid is the part of the observed range that
    minimizes ``||(x - q(x)) W||``, so that an outlier is clipped where that costs less than the coarser steps. W8 is
    symmetric with a scale per output channel. A place is left to ``quantize-dynamic`` where that was measured to be as
    fast, or where the fixed grid loses ``worse`` times as much as one that follows each sample.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.2
    gated: ClassVar[bool] = True
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Ranges,)

    worse: float = option(1.5, at_least=0)
    """The largest accepted error of the activations, as a multiple of the error with a grid per sample."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    def apply(self, work: Workbench) -> None:
        """Visit every MatMul and Gemm in the order of the graph."""
        leave_experts(work)
        sites = linear_sites(work, self.minimum)
        obstacle = _obstacle(work)
        if obstacle:
            for site in sites:
                work.decline(site.node, obstacle)
        elif sites:
            _Run(self, work, sites).visit()


def _obstacle(work: Workbench) -> str:
    if not work.context.calibration:
        return "needs calibration data"
    if work.opset < _OPSET:
        return f"opset {work.opset} has no scale per channel, opset {_OPSET} has"
    return ""


class _Run:
    """One run over one model."""

    def __init__(
        self, options: QuantizeLinearStatic, work: Workbench, sites: Sequence[Linear]
    ) -> None:
        self._pass, self._work, self._sites = options, work, sites
        self._nodes = {site.node for site in sites}
        self._weights = INT7 if work.context.device.saturates else INT8
        context = work.context
        names = list(dict.fromkeys(site.x.name or "" for site in sites))
        self._ranges: Mapping[str, Range] = work.analyses.get(Ranges(tuple(names)))
        feeds = first_samples(work.model, context.calibration[0])
        self._sample = Sampler(work.model, names, feeds, context.threads)
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        if context.prices is not None:
            values = [site.x for site in sites]
            self._shapes = observed_shapes(work.model, values, context.bindings, context.threads)
        self._fits: dict[str, tuple[Fit, float]] = {}
        """Operand -> its grid, and the error with a grid per sample."""
        self._decoded: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Operand -> its integers as real numbers, which the places that read it share."""

    def visit(self) -> None:
        """Rewrite the places for which that pays, in graph order."""
        for site in self._sites:
            try:
                self._check_shared(site)
                times = self._times(site)
                x = self._operand(site)
                self._propose(site, x, self._fit(site, x), times)
            except Mismatch as reason:
                self._work.decline(site.node, str(reason))

    def _check_shared(self, site: Linear) -> None:
        for reader in site.weight.consumers():
            if reader not in self._nodes:
                raise Mismatch(f"the weight is also read by {reader.op_type} '{reader.name}'")

    def _operand(self, site: Linear) -> Array:
        try:
            found = self._sample(site.x.name or "")
        except CannotRun as error:
            raise Mismatch(f"the operand could not be observed: {error}") from error
        if found is None or not found.size:
            raise Mismatch("the operand could not be observed")
        return found

    def _fit(self, site: Linear, x: Array) -> Fit:
        """Return one grid for all that reads the operand; raises Mismatch where it loses too much."""
        name = site.x.name or ""
        if name not in self._fits:
            together = [other.matrix() for other in self._sites if other.x is site.x]
            matrix = np.concatenate(together, axis=1)
            fit = fit_range(x, matrix, self._ranges[name], UINT8)
            self._fits[name] = fit, dynamic_error(x, matrix, UINT8)
        fit, free = self._fits[name]
        if fit.error > self._pass.worse * free:
            raise Mismatch(
                f"a fixed grid changes the product by {fit.error:.2e}, one per sample by {free:.2e}"
            )
        return fit

    def _times(self, site: Linear) -> Mapping[str, float]:
        """Return the site's share of what was measured; raises Mismatch where a fixed grid is not the fastest.

        All that read one operand are decided together, as one wide product: a grid of each kind for the same operand
        would be computed twice.
        """
        prices = self._work.context.prices
        if prices is None:
            return {}
        shape = self._shapes.get(site.x.name or "")
        if not shape:
            raise Mismatch("the number of rows is not known, so nothing could be measured")
        inputs, outputs = site.sizes
        rows = math.prod(shape[:-1])
        width = sum(other.sizes[1] for other in self._sites if other.x is site.x)
        work = f"MatMul [{rows},{inputs}] x [{inputs},{width}] {self._weights.name} static"
        models = _models((rows, inputs, width), self._weights, self._work.opset)
        times = prices.lookup(work, models)
        if _STATIC not in times:
            raise Mismatch("the runtime has no kernel for it here")
        for name, worth in ((FLOAT, 1.0), (_DYNAMIC, _WORTH)):
            if name in times and times[_STATIC] >= times[name] * worth:
                raise Mismatch(f"static takes {times[_STATIC]:.3g} ms, {name} {times[name]:.3g} ms")
        return {name: ms * outputs / width for name, ms in times.items()}

    def _propose(self, site: Linear, x: Array, fit: Fit, times: Mapping[str, float]) -> None:
        build = self._work.builder(site.node)
        operand = site.node.inputs[0]
        assert operand is not None
        name = operand.name or "x"
        real = self._decoded.get(operand)
        if real is None:
            real = decode(build, encode(build, operand, fit.grid, name), fit.grid, name)
        grid = self._grid(site)
        integers = quantize(site.matrix(), grid)
        label = site.weight.name or "weight"
        stored = build.constant(integers, f"{label}.{grid.format.name}")
        result = build.op("MatMul", real, decode(build, stored, grid, label))
        if site.bias is not None:
            result = build.op("Add", result, _scaled(build, site.bias, site.beta))
        damage = Damage(
            site=site.node.name or site.node.op_type,
            format=f"{grid.format.name} static",
            error=0.0,
            bytes_before=4 * math.prod(site.sizes),
            bytes_after=integers.nbytes + grid.scale.nbytes,
            ms_before=times.get(FLOAT),
            ms_after=times.get(_STATIC),
        )
        proposal = Proposal(
            (site.node,), ((site.node.outputs[0], result),), tuple(build.nodes),
            tuple(build.initializers),
        )  # fmt: skip
        samples = {name: x}
        if operand in self._decoded:
            samples[real.name or ""] = dequantize(quantize(x, fit.grid), fit.grid)
        if self._work.propose(proposal, damage, samples):
            self._decoded[operand] = real

    def _grid(self, site: Linear) -> Affine:
        try:
            return symmetric(site.matrix(), self._weights, 1)
        except ValueError as error:
            raise Mismatch(f"the weight cannot be quantized: {error}") from error


def _scaled(build: Builder, bias: onnx_ir.Value, beta: float) -> onnx_ir.Value:
    if beta == 1:
        return bias
    return build.op("Mul", bias, build.constant(np.asarray(beta, np.float32)))


def _models(sizes: tuple[int, int, int], fmt: IntegerFormat, opset: int) -> dict[str, KernelModel]:
    """Return a product in floats, with a fixed grid and with one that follows the operand."""
    rows, inputs, outputs = sizes
    x, w = noise((rows, inputs)), noise((inputs, outputs), 1)
    grid, weights = affine(-4.0, 4.0, UINT8), symmetric(w, fmt, 1)
    integers = quantize(w, weights)

    def static(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        real = decode(build, encode(build, values[0], grid, "x"), grid, "x")
        return build.op("MatMul", real, decode(build, build.constant(integers, "w"), weights, "w"))

    def dynamic(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        quantized, scale, zero = build.ops("DynamicQuantizeLinear", values, 3)
        total = build.op("MatMulInteger", quantized, build.constant(integers, "w"), zero)
        real = build.op("Cast", total, attributes={"to": int(onnx_ir.DataType.FLOAT)})
        return build.op("Mul", real, build.op("Mul", scale, build.constant(weights.scale, "s")))

    def plain(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return build.op("MatMul", values[0], build.constant(w, "w"))

    bodies = {FLOAT: plain, _STATIC: static, _DYNAMIC: dynamic}
    return {name: kernel({"x": x}, body, opset) for name, body in bodies.items()}
