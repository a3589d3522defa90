"""int8 MatMul and Gemm with scales for the activations computed while the model runs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import Sampler, first_samples, observed_shapes
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.kernels import Body, kernel, noise
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.arrays import Affine, quantize, symmetric
from whet.passes.quantization.algorithms.formats import INT7, INT8, UINT8_WEIGHT, IntegerFormat
from whet.passes.quantization.choice import FLOAT, cheapest
from whet.passes.quantization.linear import Linear, linear_sites
from whet.passes.workbench import Workbench

__all__ = ["QuantizeDynamic"]

_FORMATS = {"int8": INT8, "int7": INT7, "uint8": UINT8_WEIGHT}


@dataclasses.dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Replace ``x W + b`` by ``(q(x) W8) * (s_x s_w) + b``, with ``q`` computed from the range of each activation.

    W8 is symmetric with a scale per output channel. A place keeps float32 where the integer kernel was not measured
    to be faster on its shape, or where its output would change by more than the bound. Activations that several
    places read are quantized once.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.2
    gated: ClassVar[bool] = True

    weights: Literal["auto", "int8", "int7", "uint8"] = "auto"
    """The grid of the weights; ``auto`` takes the fastest that cannot saturate on this machine."""
    per_channel: bool = True
    """Weights have a scale for each output channel, or one for all."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""
    prefer: Literal["speed", "size"] = "speed"
    """``size`` quantizes also where it was not measured to be faster."""

    def apply(self, work: Workbench) -> None:
        """Visit every MatMul and Gemm in the order of the graph."""
        leave_experts(work)
        _Run(self, work).visit()


@dataclasses.dataclass(frozen=True)
class _Packed:
    """A quantized weight in the graph: integers, scales, and the zero point if there is one."""

    integers: onnx_ir.Value
    scale: onnx_ir.Value
    zero: onnx_ir.Value | None
    bytes: int


@dataclasses.dataclass
class _Run:
    """One run over one model."""

    step: QuantizeDynamic
    work: Workbench
    codes: dict[onnx_ir.Value, tuple[onnx_ir.Value, ...]] = dataclasses.field(
        default_factory=dict[onnx_ir.Value, tuple[onnx_ir.Value, ...]]
    )
    packed: dict[tuple[object, ...], _Packed] = dataclasses.field(
        default_factory=dict[tuple[object, ...], _Packed]
    )

    rows: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Operand -> how many rows it has at the first binding."""

    def visit(self) -> None:
        found = linear_sites(self.work, self.step.minimum)
        sample = self._sampler([site.x.name or "" for site in found])
        context = self.work.context
        if context.prices is not None:
            values = [site.x for site in found]
            shapes = observed_shapes(self.work.model, values, context.bindings, context.threads)
            self.rows = {n: math.prod(shape[:-1]) for n, shape in shapes.items() if shape}
        nodes = {site.node for site in found}
        for site in found:
            try:
                self._check_shared(site, nodes)
                fmt, times = self._format(site)
                self._propose(site, fmt, times, _sampled(sample, site))
            except Mismatch as reason:
                self.work.decline(site.node, str(reason))

    def _sampler(self, names: list[str]) -> Sampler | None:
        context = self.work.context
        if not context.calibration or not names:
            return None
        feeds = first_samples(self.work.model, context.judge[0])
        return Sampler(self.work.model, names, feeds, context.threads)

    def _check_shared(self, site: Linear, nodes: set[onnx_ir.Node]) -> None:
        """Decline where the float weight would have to stay beside the integers."""
        if site.weight.is_graph_output():
            raise Mismatch("the weight is an output of the model")
        for reader in site.weight.consumers():
            if reader not in nodes and self.step.prefer == "speed":
                raise Mismatch(f"the weight is also read by {reader.op_type} '{reader.name}'")

    def _format(self, site: Linear) -> tuple[IntegerFormat, Mapping[str, float]]:
        names = ["uint8", "int7"] if self.work.context.device.saturates else ["int8"]
        if self.step.weights != "auto":
            names = [self.step.weights]
        rows = self.rows.get(site.x.name or "")
        times = self._times(site, rows, names) if rows is not None else {}
        if rows is None and self.work.context.prices is not None and self.step.prefer == "speed":
            raise Mismatch("the number of rows is not known, so nothing could be measured")
        return _FORMATS[cheapest(names, times, must_gain=self.step.prefer == "speed")], times

    def _times(self, site: Linear, rows: int, names: list[str]) -> Mapping[str, float]:
        prices = self.work.context.prices
        if prices is None:
            return {}
        inputs, outputs = site.sizes
        x, w = noise((rows, inputs)), noise((inputs, outputs), 1)
        axis = self._axis

        def integer(fmt: IntegerFormat) -> Body:
            def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
                grid = symmetric(w, fmt, axis)
                codes = build.ops("DynamicQuantizeLinear", values, 3)
                return _product(build, codes, _pack(build, quantize(w, grid), grid, "w"))

            return body

        models = {
            FLOAT: kernel(
                {"x": x}, lambda b, v: b.op("MatMul", v[0], b.constant(w)), self.work.opset
            ),
            **{n: kernel({"x": x}, integer(_FORMATS[n]), self.work.opset) for n in names},
        }
        channels = "channel" if self.step.per_channel else "tensor"
        work = f"MatMul [{rows},{inputs}] x [{inputs},{outputs}] dynamic per {channels}"
        return prices.lookup(work, models)

    @property
    def _axis(self) -> int | None:
        return 1 if self.step.per_channel else None

    def _propose(
        self,
        site: Linear,
        fmt: IntegerFormat,
        times: Mapping[str, float],
        samples: Mapping[str, Array],
    ) -> None:
        build = self.work.builder(site.node)
        x = _operand(site)
        key = (site.weight, site.layout, fmt)
        packed = self.packed.get(key) or self._quantize(build, site, fmt)
        codes = self.codes.get(x) or build.ops("DynamicQuantizeLinear", [x], 3)
        result = _product(build, codes, packed)
        if site.bias is not None:
            result = build.op("Add", result, _scaled(build, site.bias, site.beta))
        damage = Damage(
            site=site.node.name or site.node.op_type,
            format=f"{fmt.name} dynamic",
            error=0.0,
            bytes_before=4 * math.prod(site.sizes),
            bytes_after=packed.bytes,
            ms_before=times.get(FLOAT),
            ms_after=times.get(fmt.name),
        )
        proposal = Proposal(
            (site.node,), ((site.node.outputs[0], result),), tuple(build.nodes),
            tuple(build.initializers),
        )  # fmt: skip
        if self.work.propose(proposal, damage, samples):
            self.packed[key], self.codes[x] = packed, codes

    def _quantize(self, build: Builder, site: Linear, fmt: IntegerFormat) -> _Packed:
        matrix = site.matrix()
        try:
            grid = symmetric(matrix, fmt, self._axis)
        except ValueError as error:
            raise Mismatch(f"the weight cannot be quantized: {error}") from error
        return _pack(build, quantize(matrix, grid), grid, site.weight.name or "weight")


def _pack(build: Builder, integers: Array, grid: Affine, name: str) -> _Packed:
    zero = None
    if grid.format.zero:
        zero = build.constant(np.asarray(grid.format.zero, grid.format.dtype), f"{name}.zero")
    return _Packed(
        build.constant(integers, f"{name}.{grid.format.name}"),
        build.constant(grid.scale, f"{name}.scale"),
        zero,
        integers.nbytes + grid.scale.nbytes,
    )


def _product(build: Builder, codes: tuple[onnx_ir.Value, ...], weight: _Packed) -> onnx_ir.Value:
    """Spell the product the way ONNX Runtime fuses it: MatMulIntegerToFloat, DynamicQuantizeMatMul."""
    quantized, scale, zero = codes
    total = build.op("MatMulInteger", quantized, weight.integers, zero, weight.zero)
    real = build.op("Cast", total, attributes={"to": int(onnx_ir.DataType.FLOAT)})
    return build.op("Mul", real, build.op("Mul", scale, weight.scale))


def _scaled(build: Builder, bias: onnx_ir.Value, beta: float) -> onnx_ir.Value:
    if beta == 1:
        return bias
    return build.op("Mul", bias, build.constant(np.asarray(beta, np.float32)))


def _operand(site: Linear) -> onnx_ir.Value:
    """Return what the node reads now: an earlier rewrite may have replaced ``site.x``."""
    x = site.node.inputs[0]
    assert x is not None
    return x


def _sampled(sample: Sampler | None, site: Linear) -> dict[str, Array]:
    """Return real data for the operand, under its present name."""
    if sample is None:
        return {}
    try:
        found = sample(site.x.name or "")
    except CannotRun:
        return {}
    return {} if found is None else {_operand(site).name or "": found}
