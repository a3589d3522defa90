"""Place the steps of a model: prices of single steps, a minimum cut, then a race of whole models."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.analysis.prices import KernelModel, Prices
from whet.ir.values import weight_bytes
from whet.passes.quantization.algorithms.arrays import affine
from whet.passes.quantization.algorithms.formats import INT8_ACTIVATION, UINT8, IntegerFormat
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.integer_rewriting import Names
from whet.passes.quantization.integer_steps import Step
from whet.passes.quantization.placement import Task, place
from whet.passes.quantization.placement_race import Placed, fastest, flips
from whet.passes.quantization.step_prices import INTEGER, StepPrices
from whet.passes.quantization.weight_codes import nearest_codes
from whet.passes.quantization.whole_models import WholeModels
from whet.passes.workbench import Workbench

__all__ = ["Plan", "Planner"]

_NEVER = 1e3
_NOMINAL = 10.0
"""Float cost of a product without measurements, where the integer form of everything costs 0.5 and float costs 1
elsewhere: products draw the rest along."""
_LARGE = 1 << 28
"""Models of more bytes do not race: a dozen of them are in memory at once."""
_TRIED = 10
"""Pieces at the border that are moved in one race."""


@dataclasses.dataclass
class Plan:
    """A placement with one type of activation."""

    format: IntegerFormat
    placed: Placed
    times: list[Mapping[str, float]]
    """What each step takes alone."""
    raced: Mapping[Placed, float]
    """Whole models, where they competed."""
    costs: Mapping[int, float] = dataclasses.field(default_factory=dict[int, float])
    """What steps that a limit took back do to the outputs alone."""
    limit: float = 0.0

    def why_float(self, number: int) -> str:
        """Return why a step is not placed."""
        times = self.times[number]
        if number in self.costs:
            return (
                f"alone it moves the outputs by {self.costs[number]:.2g} of their norm, the limit for all together "
                f"is {self.limit:g}"
            )
        if not {FLOAT, INTEGER} <= times.keys():
            return f"the runtime has no {self.format.name} kernel here, or the shape is not known"
        reason = f"{self.format.name} takes {times[INTEGER]:.3g} ms, float32 {times[FLOAT]:.3g} ms"
        if times[INTEGER] >= times[FLOAT]:
            return reason
        other = self.raced.get(self.placed ^ {number})
        if other is not None and self.placed in self.raced:
            now = self.raced[self.placed]
            return (
                f"{reason}, but the whole model takes {other:.3g} ms with it, {now:.3g} ms without"
            )
        return f"{reason}, and crossing between them takes more than that gains"


class Planner:
    """Choose which steps run on integers."""

    def __init__(
        self, work: Workbench, steps: Sequence[Step], weights: IntegerFormat, *, all_products: bool
    ) -> None:
        """Look at ``steps``; with ``all_products`` every one that has weights is placed."""
        self._work = work
        self._steps = steps
        self._names = [Names.of(step) for step in steps]
        self._weights = weights
        self._all_products = all_products
        context = work.context
        self._prices: StepPrices | None = None
        if context.prices is not None:
            shapes = observed_shapes(work.model, self._values(), context.bindings, context.threads)
            self._prices = StepPrices(context.prices, shapes, work.opset, weights)

    def plan(self, fmt: IntegerFormat | None) -> Plan:
        """Return the placement; without a type of activation, with the one that is faster."""
        fmt = self._faster_format() if fmt is None else fmt
        times = [{} if self._prices is None else self._prices.step(s, fmt) for s in self._steps]
        plan = Plan(fmt, frozenset(), times, {})
        plan.placed = self.cheapest(plan, {})
        if self._may_race():
            plan.placed, plan.raced = self._race(plan)
        return plan

    def able(self, plan: Plan) -> Placed:
        """Return the steps that can run on integers."""
        costs = [self._costs(s, t) for s, t in zip(self._steps, plan.times, strict=True)]
        return frozenset(k for k, (_, integer) in enumerate(costs) if integer < _NEVER)

    def cheapest(self, plan: Plan, shares: Mapping[int, float]) -> Placed:
        """Return the cheapest placement by prices; an integer form costs a share of the time of all on top."""
        costs = [self._costs(s, t) for s, t in zip(self._steps, plan.times, strict=True)]
        whole = sum(real for real, _ in costs)
        tasks = [
            Task(real, integer + shares.get(k, 0.0) * whole, names.reads, names.writes)
            for k, ((real, integer), names) in enumerate(zip(costs, self._names, strict=True))
        ]
        enter, leave = dict[str, float](), dict[str, float]()
        if self._prices is not None:
            enter, leave = self._prices.crossing(self._values(), plan.format)
        return place(tasks, enter, leave, self._read_outside()).integers

    def fastest_of(
        self, plan: Plan, candidates: Sequence[Placed]
    ) -> tuple[Placed, Mapping[Placed, float]]:
        """Return the placement that runs fastest as a whole, and what each takes; the first where none may race."""
        if len(candidates) < 2 or not self._may_race():
            return candidates[0], {}
        prices, label, trial = self._trials(plan.format)
        return fastest(prices, label, trial, candidates, lambda _: [])

    def _values(self) -> list[onnx_ir.Value]:
        return [v for step in self._steps for v in (*step.reads, *step.writes)]

    def _faster_format(self) -> IntegerFormat:
        """Return the type of activations that the largest product was measured to be faster with."""
        if self._prices is None:
            return UINT8
        largest = max((s for s in self._steps if s.has_weights), key=self._prices.volume)
        times = {
            f: self._prices.step(largest, f).get(INTEGER, _NEVER) for f in (UINT8, INT8_ACTIVATION)
        }
        return min(times, key=lambda fmt: times[fmt])

    def _costs(self, step: Step, found: Mapping[str, float]) -> tuple[float, float]:
        """Return what the step costs in float and in integers."""
        if self._all_products and step.has_weights:
            return _NEVER, 0.0
        if self._prices is None:
            return _NOMINAL if step.has_weights else 1.0, 0.5
        if not {FLOAT, INTEGER} <= found.keys():
            return 0.0, _NEVER
        return found[FLOAT], found[INTEGER]

    def _read_outside(self) -> frozenset[str]:
        inside = {node for step in self._steps for node in step.nodes}
        return frozenset(
            value.name or ""
            for value in self._values()
            if value.is_graph_output() or any(n not in inside for n in value.consumers())
        )

    def _may_race(self) -> bool:
        if self._prices is None or self._all_products:
            return False
        return weight_bytes(self._work.model) <= _LARGE

    def _trials(self, fmt: IntegerFormat) -> tuple[Prices, str, Callable[[Placed], KernelModel]]:
        """Return what whole models are timed with: prices, what they are called there, and how one is made."""
        context = self._work.context
        assert context.prices is not None
        proto = onnx_ir.to_proto(self._work.model)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:16]
        feeds = context.bindings.feeds(self._work.model, 0)
        sizes = " ".join(f"{name}{list(a.shape)}" for name, a in feeds.items())
        label = f"model {digest} {sizes} static {fmt.name} {self._weights.name}"
        nominal = dict.fromkeys((v.name or "" for v in self._values()), affine(-3.0, 3.0, fmt))
        models = WholeModels(
            self._work,
            nominal,
            lambda _, weights, grid: nearest_codes(weights, self._weights, float(grid.scale)),
        )

        def trial(placed: Placed) -> KernelModel:
            return lambda: (models.proto(placed).SerializeToString(), feeds)

        return context.prices, label, trial

    def _race(self, plan: Plan) -> tuple[Placed, Mapping[Placed, float]]:
        costs = [self._costs(s, t) for s, t in zip(self._steps, plan.times, strict=True)]
        able = self.able(plan)
        alone = frozenset(k for k in able if costs[k][1] < costs[k][0])
        pulled = able - frozenset(
            k for k in able if self._steps[k].has_weights and costs[k][1] >= costs[k][0]
        )
        links = self._links()
        outside = self._read_outside()
        made = {name for names in self._names for name in names.writes}
        outer = frozenset(
            k
            for k, names in enumerate(self._names)
            if outside & set(names.writes) or not set(names.reads) <= made
        )

        def border(placed: Placed) -> list[Placed]:
            pieces = flips(placed, links, outer & able, _TRIED)
            return [p & able for p in pieces if p & able]

        everything = [plan.placed, able, pulled, alone, frozenset[int]()]
        prices, label, trial = self._trials(plan.format)
        return fastest(prices, label, trial, everything, border)

    def _links(self) -> list[tuple[int, int]]:
        makers = {name: k for k, names in enumerate(self._names) for name in names.writes}
        return [
            (makers[name], k)
            for k, names in enumerate(self._names)
            for name in names.reads
            if name in makers
        ]
