"""Networks of integer operators between integer activations, with ranges from calibration data."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from whet.analysis.activations import Sampler, first_samples
from whet.analysis.base import Analysis
from whet.analysis.output_damage import OutputError
from whet.analysis.ranges import Range, RangeMethod, Ranges
from whet.analysis.statistics import Statistics
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass, Spared
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.quantization.accuracy_limit import within_limit
from whet.passes.quantization.algorithms.approximation import Blocks
from whet.passes.quantization.algorithms.arrays import Affine, affine
from whet.passes.quantization.algorithms.formats import (
    INT7,
    INT8,
    INT8_ACTIVATION,
    UINT8,
    IntegerFormat,
)
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.input_moments import InputMoments, Seen, moments_of
from whet.passes.quantization.integer_rewriting import CodesOf, Names, Rewriting, Written
from whet.passes.quantization.integer_steps import Step, find_steps
from whet.passes.quantization.learned_rounding import learn
from whet.passes.quantization.low_bit_weights import learned_codes, low_bit_codes, nearest_blocks
from whet.passes.quantization.placement_race import Placed
from whet.passes.quantization.range_choice import Reader, choose_range
from whet.passes.quantization.static_placement import Plan, Planner
from whet.passes.quantization.step_prices import INTEGER
from whet.passes.quantization.weight_codes import Codes, Weights, nearest_codes
from whet.passes.quantization.whole_models import WholeModels
from whet.passes.workbench import Workbench

__all__ = ["QuantizeStatic"]

_METHODS: tuple[RangeMethod, ...] = ("extremes", "percentile", "mse", "entropy")
_ACTIVATIONS = {"uint8": UINT8, "int8": INT8_ACTIVATION, "auto": None}


def _node_bits(entry: str) -> tuple[str, int]:
    """Read ``NODE:BITS``; raises ValueError."""
    name, _, bits = entry.rpartition(":")
    if not name or bits not in {"8", "4", "3", "2"}:
        raise ValueError(entry)
    return name, int(bits)


@dataclasses.dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Run products, and what lies between them, on integers: ``DQ(Q(op(DQ(..), DQ(W8))))``.

    Products are convolutions, matrix products and Gemm with fixed weights; between them there may be sums, products,
    concatenations, pools, Sigmoid and LeakyRelu, and whatever only moves values (slices, paddings, reshapes, maxima,
    interpolation), which works on the integers themselves. Weights are symmetric with a scale per output channel, the
    bias has 32 bits, activations are one grid per value with a range from calibration data. Relu and Clip disappear
    into the output's grid. Which operators move is decided by running whole models: the cheapest placement by measured
    kernel times, and others that differ from it, compete in the target.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.2
    gated: ClassVar[bool] = True
    chains: ClassVar[bool] = True
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Ranges,)

    activations: Literal["auto", "uint8", "int8"] = "auto"
    """Signed or unsigned activations; ``auto`` takes what was measured to be faster."""
    weights: Literal["auto", "int8", "int7"] = "auto"
    """``auto`` takes seven bits where kernels for eight saturate on this machine."""
    ranges: Literal["auto", "extremes", "percentile", "mse", "entropy"] = "percentile"
    """What a range covers: everything (``extremes``), a share, or what costs the least squared error or entropy;
    ``auto`` takes for each value what changes the outputs of its readers least on held-out data."""
    percentile: float = option(100.0, above=0, at_most=100)
    """Share of the values that a range covers."""
    weight_bits: Literal[8, 4, 3, 2] = 8
    """What a weight is stored in; kernels see eight bits, made when the model is loaded."""
    method: Literal["auto", "nearest", "gptq", "adaround"] = "auto"
    """How weights are rounded; ``auto`` keeps the nearest or GPTQ, whichever loses less on held-out data. Weights of
    eight bits are simply rounded to the nearest, unless there is a ``limit`` or ``gptq`` is asked for. ``adaround``
    learns how to round fewer bits through the twin (needs torch, takes minutes); channels that lose more than by
    rounding to the nearest on samples held out keep that."""
    ends: Literal["same", "eight"] = "eight"
    """Bits of the first and the last product: those of all others, or eight."""
    stored: tuple[str, ...] = option((), reads=_node_bits, like="NODE:BITS with 8, 4, 3 or 2 bits")
    """Bits of the weights of single products, as NODE:BITS; ``weight_bits`` is for the others."""
    products: Literal["all", "convolutions"] = "all"
    """``convolutions`` leaves a model whose matrix products hold more weights than its convolutions to
    ``quantize-linear-static``, which keeps sums between them in float."""
    limit: float = option(0.0, at_least=0)
    """The largest ||new - old|| / ||old|| of the model's outputs on held-out data; the steps that cost the most for
    what they gain stay in float until it is kept. 0 sets no limit. Of a picture, a hundredth is seen as 0.1 to 0.2 dB;
    classes bear several hundredths."""
    prefer: Literal["speed", "size"] = "speed"
    """``size`` quantizes every product, also where it was not measured to be faster."""

    @property
    def tolerance(self) -> float:
        """Return the largest accepted error of one step; fewer bits have a right to more."""
        return {8: 0.2, 4: 0.35, 3: 0.6, 2: 1.0}[self.fewest_bits]

    @property
    def fewest_bits(self) -> int:
        """Return the bits of the narrowest weight."""
        return min((self.weight_bits, *self.stored_bits.values()))

    @functools.cached_property
    def stored_bits(self) -> Mapping[str, int]:
        """Return node -> bits."""
        return dict(map(_node_bits, self.stored))

    def apply(self, work: Workbench) -> None:
        """Choose the placement, then rewrite its steps one by one."""
        leave_experts(work)
        steps, refused = find_steps(work.nodes(between=True))
        steps = [s for s in steps if not s.has_weights or self.chooses(s.node.name or "")]
        work.coverage.matched += len(steps) + len(refused)
        for node, reason in refused.items():
            work.decline(node, reason)
        obstacle = self._obstacle(work) or self._other(steps)
        if obstacle:
            for step in steps:
                work.decline(step.node, obstacle)
        elif any(step.has_weights for step in steps):
            _Run(self, work, steps).rewrite()

    def _other(self, steps: Sequence[Step]) -> str:
        """Return why the model is another pass's, if it is."""
        if self.products == "all":
            return ""
        held = {True: 0, False: 0}
        for step in steps:
            if step.has_weights:
                weight = step.node.inputs[1]
                size = (
                    0 if weight is None or weight.const_value is None else weight.const_value.size
                )
                held[step.node.op_type in ("Conv", "ConvTranspose")] += size
        if held[True] >= held[False]:
            return ""
        return f"matrix products hold {held[False]:,} weights, convolutions {held[True]:,}"

    def _obstacle(self, work: Workbench) -> str:
        if not work.context.calibration:
            return "needs calibration data"
        if work.opset < 13:
            return f"opset {work.opset} has no scale per channel, opset 13 has"
        return ""


class _Run:
    """One run over one model."""

    def __init__(self, options: QuantizeStatic, work: Workbench, steps: Sequence[Step]) -> None:
        self._pass = options
        self._work = work
        self._steps = steps
        self._names = [Names.of(step) for step in steps]
        self._format = _weight_format(options.weights, work.context.device.saturates)

    def rewrite(self) -> None:
        """Rewrite the steps of the fastest placement in graph order."""
        every = self._pass.prefer == "size"
        planner = Planner(self._work, self._steps, self._format, all_products=every)
        plan = planner.plan(_ACTIVATIONS[self._pass.activations])
        scope = plan.placed | planner.able(plan) if self._pass.limit > 0 else plan.placed
        sample = self._sampler(sorted(scope))
        wide = dataclasses.replace(plan, placed=scope)
        grids = self._grids(wide, sample)
        try:
            codes = self._codes(wide, grids)
        except Mismatch as reason:
            for step in self._steps:
                self._work.decline(step.node, str(reason))
            return
        if self._pass.limit > 0:
            plan = self._limited(planner, plan, grids, codes)
        rewriting = Rewriting(
            self._steps,
            plan.placed,
            grids,
            codes,
            self._work.builder,
            self._work.opset,
        )
        for number, step in enumerate(self._steps):
            if number in plan.placed:
                self._propose(number, plan, rewriting, sample)
            else:
                self._work.decline(step.node, plan.why_float(number))
        self._work.coverage.spared += [self._spared(k, plan) for k in sorted(plan.costs)]

    def _limited(
        self, planner: Planner, plan: Plan, grids: Mapping[str, Affine], codes: CodesOf
    ) -> Plan:
        """Take steps back until the outputs change by no more than the limit."""
        outputs = OutputError(self._work.model, self._work.context)
        models = WholeModels(self._work, grids, codes)
        limit = self._pass.limit
        able = planner.able(plan)
        counted = itertools.count(1)

        def error(placed: Placed) -> float:
            tried = f"model {next(counted)}"
            self._work.context.progress(f"{self._pass.name}: keep the limit, {tried}")
            return outputs.of(models.proto(placed))

        kept, alone = within_limit(
            plan.placed, able, limit, error, lambda shares: planner.cheapest(plan, shares)
        )
        placed, raced = planner.fastest_of(plan, kept)
        gone = {k: alone[k] for k in plan.placed - placed}
        raced = {**plan.raced, **raced}
        return dataclasses.replace(plan, placed=placed, raced=raced, costs=gone, limit=limit)

    def _grids(self, plan: Plan, sample: Sampler) -> dict[str, Affine]:
        placed = [self._names[k] for k in sorted(plan.placed)]
        names = tuple(dict.fromkeys(n for step in placed for n in (*step.reads, *step.writes)))
        if self._pass.ranges != "auto":
            found = self._ranges(names, self._pass.ranges)
        else:
            every = [self._ranges(names, method) for method in _METHODS]
            found = {n: self._best(n, [r[n] for r in every], plan, sample) for n in every[0]}
        return {name: affine(r.low, r.high, plan.format) for name, r in found.items()}

    def _ranges(self, names: tuple[str, ...], method: RangeMethod) -> Mapping[str, Range]:
        return self._work.analyses.get(Ranges(names, self._pass.percentile, method))

    def _best(self, name: str, candidates: Sequence[Range], plan: Plan, sample: Sampler) -> Range:
        """Return the range that costs those who read the value least."""
        readers: list[Reader] = []
        for number in sorted(plan.placed):
            step = self._steps[number]
            if step.has_weights and name in self._names[number].reads:
                vectors = moments_of(step.node)
                if vectors is not None:
                    readers.append((Weights.of(step.node, step.added), vectors))
        values = _values(sample, [name])
        if not values:
            return candidates[0]
        return choose_range(candidates, values[0], readers, plan.format)

    def _codes(self, plan: Plan, grids: Mapping[str, Affine]) -> CodesOf:
        """Return the maker of weights; what it needs to know of their inputs is measured in one pass over the data."""
        seen = self._seen(plan)
        learned = self._learned(plan, seen, grids) if self._pass.method == "adaround" else {}
        known: dict[tuple[int, float], Codes] = {}

        def codes(number: int, weights: Weights, grid: Affine) -> Codes:
            if number in learned:
                return learned_codes(weights, learned[number])
            key = number, float(grid.scale)
            if key not in known:
                known[key] = self._rounded(number, weights, key[1], seen.get(number))
            return known[key]

        return codes

    def _learned(
        self, plan: Plan, seen: Mapping[int, Seen], grids: Mapping[str, Affine]
    ) -> dict[int, Blocks]:
        """Return what AdaRound makes of the products of few bits; raises Mismatch where it cannot work."""
        products = {
            self._steps[k].node.name or "": k
            for k in sorted(plan.placed)
            if self._steps[k].has_weights and self._bits(k) < 8
        }

        def start(number: int) -> Callable[[Array], Blocks]:
            step = self._steps[number]
            weights = Weights.of(step.node, step.added)
            return lambda _: nearest_blocks(weights, self._bits(number), seen.get(number))

        starts = {name: start(number) for name, number in products.items()}
        found = learn(self._work.model, starts, self._work.context, grids)
        return {products[name]: blocks for name, blocks in found.items()}

    def _rounded(self, number: int, weights: Weights, scale: float, seen: Seen | None) -> Codes:
        bits = self._bits(number)
        if not self._fitted(number):
            return nearest_codes(weights, self._format, scale)
        most = self._format.high.bit_length() + 1
        method = "nearest" if self._pass.method == "adaround" else self._pass.method
        found = low_bit_codes(weights, min(bits, most), method, seen)
        if bits == 8 and not found.has_room(scale):
            return nearest_codes(weights, self._format, scale)
        return dataclasses.replace(found, bits=bits)

    def _fitted(self, number: int) -> bool:
        """Tell whether a step's weights are rounded with an eye on its inputs."""
        if self._bits(number) < 8:
            return True
        asked = self._pass.limit > 0 or self._pass.method == "gptq"
        return asked and self._pass.weight_bits == 8

    def _bits(self, number: int) -> int:
        """Return the bits of a step's weights: the first and the last product keep eight unless all are asked for."""
        asked = self._pass.stored_bits.get(self._steps[number].node.name or "")
        if asked is not None:
            return asked
        products = [k for k, step in enumerate(self._steps) if step.has_weights]
        if self._pass.ends == "eight" and number in (products[0], products[-1]):
            return 8
        return self._pass.weight_bits

    def _seen(self, plan: Plan) -> dict[int, Seen]:
        """Return what the products of few bits see: on the data to fit on, and on those to judge by."""
        asked: dict[int, InputMoments] = {}
        for number in sorted(plan.placed):
            moments = moments_of(self._steps[number].node)
            if self._steps[number].has_weights and self._fitted(number) and moments is not None:
                asked[number] = moments
        if not asked:
            return {}
        statistics = Statistics(
            frozenset((self._names[k].reads[0], moments) for k, moments in asked.items())
        )
        fit = self._work.analyses.get(statistics)
        context = self._work.context
        judge = fit
        if context.held_out:
            apart = dataclasses.replace(context, calibration=context.held_out)
            judge = statistics.measure(self._work.model, apart)
        return {
            k: Seen(*(found.of(self._names[k].reads[0], moments) for found in (fit, judge)))
            for k, moments in asked.items()
        }

    def _sampler(self, chosen: list[int]) -> Sampler:
        names = [n for k in chosen for n in (*self._names[k].reads, *self._names[k].writes)]
        context = self._work.context
        feeds = first_samples(self._work.model, context.judge[0])
        return Sampler(self._work.model, names, feeds, context.threads)

    def _propose(self, number: int, plan: Plan, rewriting: Rewriting, sample: Sampler) -> None:
        step = self._steps[number]
        try:
            written = rewriting.write(number)
        except Mismatch as reason:
            self._work.decline(step.node, str(reason))
            return
        damage = self._damage(number, plan, written)
        data = _values(sample, list(dict.fromkeys(self._names[number].reads)))
        samples = rewriting.samples(written, data) if data else None
        if self._work.propose(written.proposal, damage, samples):
            rewriting.made(written)

    def _spared(self, number: int, plan: Plan) -> Spared:
        node, times = self._steps[number].node, plan.times[number]
        ms = times.get(FLOAT), times.get(INTEGER)
        return Spared(node.name or node.op_type, plan.costs[number], plan.limit, *ms)

    def _damage(self, number: int, plan: Plan, written: Written) -> Damage:
        step = self._steps[number]
        weights = step.node.inputs[1:] if step.has_weights else ()
        old = sum(v.const_value.nbytes for v in weights if v is not None and v.const_value)
        times = plan.times[number]
        form = plan.format.name
        if step.has_weights:
            bits = self._bits(number)
            form = f"{self._format.name if bits == 8 else f'int{bits}'} x {form}"
        return Damage(
            site=step.nodes[0].name or step.node.op_type,
            format=form,
            error=0.0,
            bytes_before=old,
            bytes_after=written.new_bytes,
            ms_before=times.get(FLOAT),
            ms_after=times.get(INTEGER),
        )


def _weight_format(choice: str, saturates: bool) -> IntegerFormat:
    if choice == "auto":
        return INT7 if saturates else INT8
    return {"int8": INT8, "int7": INT7}[choice]


def _values(sample: Sampler, names: Sequence[str]) -> list[Array]:
    """Return real data for the operands, or nothing where there are none."""
    try:
        found = [sample(name) for name in names]
    except CannotRun:
        return []
    return [] if any(a is None for a in found) else [a for a in found if a is not None]
