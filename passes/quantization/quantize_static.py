"""Integer convolutions between integer activations, with ranges from calibration data."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import onnx_ir

from whet.analysis.activations import Sampler, first_samples, observed_shapes
from whet.analysis.base import Analysis
from whet.analysis.kernel_prices import saturates
from whet.analysis.ranges import Range, Ranges
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.arrays import Affine, affine
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.formats import INT7, INT8, INT8_ACTIVATION, UINT8, IntegerFormat
from whet.passes.quantization.integer_spelling import Weights, decode, encode, in_integers
from whet.passes.quantization.integer_steps import Step, find_steps
from whet.passes.quantization.placement import Placement, Task, place
from whet.passes.quantization.step_prices import INTEGER, StepPrices
from whet.passes.workbench import Workbench

__all__ = ["QuantizeStatic"]

_ACTIVATIONS = {"uint8": UINT8, "int8": INT8_ACTIVATION}
_NEVER = 1e3
_NOMINAL = {"Conv": 10.0}
"""Float cost without measurements, where the integer form of everything costs 0.5: convolutions draw the rest along."""


@dataclasses.dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Run convolutions, and the additions and pools between them, on integers: ``DQ(Q(op(DQ(..), DQ(W8))))``.

    Weights are symmetric with a scale per output channel, the bias has 32 bits, activations are one grid per value with
    a range from calibration data. Which operators move is the cheapest placement by measured kernel times, the cost of
    crossing between float and integers included. Relu and Clip disappear into the output's grid.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.2
    gated: ClassVar[bool] = True
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Ranges,)

    activations: Literal["auto", "uint8", "int8"] = "auto"
    """Signed or unsigned activations; ``auto`` takes what was measured to be faster."""
    weights: Literal["auto", "int8", "int7"] = "auto"
    """``auto`` takes seven bits where kernels for eight saturate on this machine."""
    percentile: float = 100.0
    """Share of the values that a range covers."""
    prefer: Literal["speed", "size"] = "speed"
    """``size`` quantizes every convolution, also where it was not measured to be faster."""

    def apply(self, work: Workbench) -> None:
        """Choose the placement, then rewrite its steps one by one."""
        steps, refused = find_steps(work.nodes())
        work.coverage.matched += len(steps) + len(refused)
        for node, reason in refused.items():
            work.decline(node, reason)
        obstacle = self._obstacle(work)
        if obstacle:
            for step in steps:
                work.decline(step.node, obstacle)
        elif any(step.is_convolution for step in steps):
            _Run(self, work, steps).rewrite()

    def _obstacle(self, work: Workbench) -> str:
        if not work.context.calibration:
            return "needs calibration data"
        if work.opset < 13:
            return f"opset {work.opset} has no scale per channel, opset 13 has"
        return ""


@dataclasses.dataclass
class _Plan:
    """A placement with one type of activation."""

    format: IntegerFormat
    placement: Placement
    times: list[Mapping[str, float]]


class _Run:
    """One run over one model."""

    def __init__(self, options: QuantizeStatic, work: Workbench, steps: list[Step]) -> None:
        self._pass = options
        self._work = work
        self._steps = steps
        self._names = [tuple(v.name or "" for v in s.reads) for s in steps]
        self._weights = _weight_format(options.weights)
        context = work.context
        self._prices: StepPrices | None = None
        if context.prices is not None:
            values = [v for step in steps for v in (*step.reads, step.writes)]
            shapes = observed_shapes(work.model, values, context.bindings, context.threads)
            self._prices = StepPrices(context.prices, shapes, work.opset, self._weights)
        self._decoded: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Real value -> its DequantizeLinear; outputs of those map to themselves."""
        self._grids: dict[str, Affine] = {}

    def rewrite(self) -> None:
        """Rewrite the steps of the cheapest placement in graph order."""
        ranges = self._ranges()
        plan = self._plan(self._activations())
        sample = self._sampler(sorted(plan.placement.integers))
        for number, step in enumerate(self._steps):
            if number in plan.placement.integers:
                self._propose(number, plan, ranges, sample)
            else:
                self._work.decline(step.node, _why_float(plan, number))

    def _activations(self) -> IntegerFormat:
        """Return the type of activations: what the largest convolution was measured to be faster with."""
        if self._pass.activations != "auto":
            return _ACTIVATIONS[self._pass.activations]
        if self._prices is None:
            return UINT8
        largest = max((s for s in self._steps if s.is_convolution), key=self._prices.volume)
        times = {
            f: self._prices.step(largest, f).get(INTEGER, _NEVER) for f in (UINT8, INT8_ACTIVATION)
        }
        return min(times, key=lambda fmt: times[fmt])

    def _ranges(self) -> Mapping[str, Range]:
        names = [n for reads in self._names for n in reads]
        names += [step.writes.name or "" for step in self._steps]
        found = Ranges(tuple(dict.fromkeys(names)), self._pass.percentile)
        return self._work.analyses.get(found)

    def _plan(self, fmt: IntegerFormat) -> _Plan:
        times = [{} if self._prices is None else self._prices.step(s, fmt) for s in self._steps]
        tasks = [
            Task(*self._costs(step, found), names, step.writes.name or "")
            for step, found, names in zip(self._steps, times, self._names, strict=True)
        ]
        values = [v for step in self._steps for v in (*step.reads, step.writes)]
        enter, leave = ({}, {}) if self._prices is None else self._prices.crossing(values, fmt)
        return _Plan(fmt, place(tasks, enter, leave, self._read_outside()), times)

    def _costs(self, step: Step, found: Mapping[str, float]) -> tuple[float, float]:
        """Return what the step costs in float and in integers."""
        if self._pass.prefer == "size" and step.is_convolution:
            return _NEVER, 0.0
        if self._prices is None:
            return _NOMINAL.get(step.node.op_type, 1.0), 0.5
        if not {FLOAT, INTEGER} <= found.keys():
            return 0.0, _NEVER
        return found[FLOAT], found[INTEGER]

    def _read_outside(self) -> frozenset[str]:
        inside = {node for step in self._steps for node in step.nodes}
        found: set[str] = set()
        for step in self._steps:
            for value in (*step.reads, step.writes):
                if value.is_graph_output() or any(n not in inside for n in value.consumers()):
                    found.add(value.name or "")
        return frozenset(found)

    def _sampler(self, chosen: list[int]) -> Sampler:
        names = [name for k in chosen for name in self._names[k]]
        context = self._work.context
        feeds = first_samples(self._work.model, context.judge[0])
        return Sampler(self._work.model, names, feeds, context.threads)

    def _propose(
        self, number: int, plan: _Plan, ranges: Mapping[str, Range], sample: Sampler
    ) -> None:
        step = self._steps[number]
        build = self._work.builder(step.node)
        operands = [v for v in step.node.inputs[: len(step.reads)] if v is not None]
        try:
            reads = [
                self._enter(build, value, name, plan.format, ranges)
                for value, name in zip(operands, self._names[number], strict=True)
            ]
            grid = self._grid(self._names[number][0], plan.format, ranges)
            out = step.writes.name or ""
            if step.keeps_grid:
                self._grids[out] = grid
            weights = Weights.of(step.node) if step.is_convolution else None
            result = in_integers(build, step, reads, grid, step.rest, weights, self._weights)
            after = self._grid(out, plan.format, ranges)
            real = decode(build, encode(build, result, after, out), after, out)
        except (Mismatch, ValueError) as reason:
            self._work.decline(step.node, str(reason))
            Proposal(step.nodes, (), tuple(build.nodes)).discard()
            return
        proposal = Proposal(
            step.nodes, ((step.writes, real),), tuple(build.nodes), tuple(build.initializers)
        )
        damage = self._damage(step, plan, number, build)
        samples = _samples(sample, operands, self._names[number])
        if self._work.propose(proposal, damage, samples):
            self._decoded[real] = real
            self._decoded.update(zip(operands, reads, strict=True))

    def _enter(
        self,
        build: Builder,
        value: onnx_ir.Value,
        name: str,
        fmt: IntegerFormat,
        ranges: Mapping[str, Range],
    ) -> onnx_ir.Value:
        """Return the operand rounded to its grid, by an earlier step or by new nodes."""
        known = self._decoded.get(value)
        if known is not None:
            return known
        grid = self._grid(name, fmt, ranges)
        return decode(build, encode(build, value, grid, name), grid, name)

    def _grid(self, name: str, fmt: IntegerFormat, ranges: Mapping[str, Range]) -> Affine:
        if name not in self._grids:
            if name not in ranges:
                raise Mismatch(f"the range of '{name}' could not be observed")
            self._grids[name] = affine(ranges[name].low, ranges[name].high, fmt)
        return self._grids[name]

    def _damage(self, step: Step, plan: _Plan, number: int, build: Builder) -> Damage:
        weights = step.node.inputs[1:] if step.is_convolution else ()
        old = sum(v.const_value.nbytes for v in weights if v is not None and v.const_value)
        new = sum(v.const_value.nbytes for v in build.initializers if v.const_value is not None)
        times = plan.times[number]
        return Damage(
            site=step.nodes[0].name or step.node.op_type,
            format=f"{self._weights.name} x {plan.format.name}"
            if step.is_convolution
            else plan.format.name,
            error=0.0,
            bytes_before=old,
            bytes_after=new,
            ms_before=times.get(FLOAT),
            ms_after=times.get(INTEGER),
        )


def _weight_format(choice: str) -> IntegerFormat:
    if choice == "auto":
        return INT7 if saturates() else INT8
    return {"int8": INT8, "int7": INT7}[choice]


def _why_float(plan: _Plan, number: int) -> str:
    times = plan.times[number]
    if not {FLOAT, INTEGER} <= times.keys():
        return f"the runtime has no {plan.format.name} kernel here, or the shape is not known"
    reason = f"{plan.format.name} takes {times[INTEGER]:.3g} ms, float32 {times[FLOAT]:.3g} ms"
    if times[INTEGER] < times[FLOAT]:
        reason += ", and crossing between them takes more than that gains"
    return reason


def _samples(
    sample: Sampler, operands: list[onnx_ir.Value], names: tuple[str, ...]
) -> dict[str, Array]:
    """Return real data for the operands, under their present names."""
    try:
        found = {v.name or "": sample(n) for v, n in zip(operands, names, strict=True)}
    except CannotRun:
        return {}
    return {name: array for name, array in found.items() if array is not None}
