"""A genetic algorithm over plans, for where losses do not add up: it looks only at measured losses.

Elitist, with tournaments of two, uniform crossover and one mutation per child on average (Holland, 1975; the kind of
search that Compressor and LLaMA-NAS use). Generations are small: a measurement is expensive, and a hundred of them go
further in fifteen generations than in five. Children beyond a limit are made smaller, decision after decision, before
they are measured. Where a generation brings nothing new, neighbours of the best plans take its place, and where there
are none, children that are mutated more and more.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from whet.errors import UsageError
from whet.solve.allocation import Doubles, Indices, Limits, Plan, Problem
from whet.solve.neighbours import neighbours
from whet.solve.program import solve

__all__ = ["Measured", "genetic"]

_PATIENCE = 20
"""Generations without a new plan or neighbour, mutated more each time, after which all plans have been seen."""


Measure = Callable[[Sequence[Plan]], Iterable[float]]
"""Maps plans, which do not depend on each other, to their losses, one after the other."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A plan, its measured loss, and how many measurements that took from the start."""

    plan: Plan
    loss: float
    evaluations: int


def genetic(
    problem: Problem,
    limits: Limits,
    measure: Measure,
    *,
    evaluations: int = 200,
    population: int = 8,
    seed: int = 0,
    start: Sequence[Plan] = (),
    better: Callable[[Measured], None] = lambda _found: None,
) -> Measured:
    """Return the plan of least measured loss within the limits on bytes and milliseconds.

    The first generation holds the solver's plan, those of ``start`` that fit, and mutations of these. ``measure`` is
    asked for ``evaluations`` losses, for fewer only where no more plans keep the limits, and never twice for a plan; a
    loss that is not a number counts as infinite. The limit on loss is not looked at: loss is what is minimized.
    ``better`` hears of every new best plan as soon as its loss is known, so that a search that the caller stops, by an
    exception, has still given something. Equal seeds give equal results. Raises Impossible, and
    UsageError for less than one evaluation or two plans.
    """
    if evaluations < 1 or population < 2:
        raise UsageError(
            f"{evaluations} evaluations of {population} plans, expected 1 or more of 2 or more"
        )
    search = _Search(problem, limits.without("loss"), seed)
    measured = _Measurements(measure, evaluations, better)
    plans = search.first(start, population)
    while True:
        before = measured.made
        measured.add(plans)
        search.barren = 0 if measured.made > before else search.barren + 1
        if measured.made >= evaluations or search.barren >= _PATIENCE:
            return measured.best()
        ranked = measured.ranked()
        plans = measured.new(search.children(ranked[:population], population))
        if not plans and not search.barren:
            near = (
                neighbours(problem, p, search.limits, measured.made + population) for p in ranked
            )
            plans = next(filter(None, map(measured.new, near)), [])[:population]


class _Measurements:
    """Every plan measured so far, in the order of measurement."""

    def __init__(
        self,
        measure: Measure,
        evaluations: int,
        better: Callable[[Measured], None],
    ) -> None:
        self.measure, self.evaluations, self.better = measure, evaluations, better
        self.losses: dict[Plan, float] = {}

    @property
    def made(self) -> int:
        return len(self.losses)

    def new(self, plans: Sequence[Plan]) -> list[Plan]:
        """Return those not measured yet, each once."""
        return [plan for plan in dict.fromkeys(plans) if plan not in self.losses]

    def add(self, plans: Sequence[Plan]) -> None:
        """Measure the plans that are new, as far as the budget goes."""
        new = self.new(plans)[: self.evaluations - self.made]
        for plan, loss in zip(new, self.measure(new), strict=True):
            least = min(self.losses.values(), default=math.inf)
            self.losses[plan] = math.inf if math.isnan(loss) else float(loss)
            if self.losses[plan] < least or self.made == 1:
                self.better(Measured(plan, self.losses[plan], self.made))

    def ranked(self) -> list[Plan]:
        """Return all plans, the best first; of equals the one measured first."""
        return sorted(self.losses, key=self.losses.__getitem__)

    def best(self) -> Measured:
        plan = self.ranked()[0]
        return Measured(plan, self.losses[plan], self.made)


class _Search:
    """Makes plans that keep the limits."""

    def __init__(self, problem: Problem, limits: Limits, seed: int) -> None:
        self.problem, self.limits = problem, limits
        self.rng = np.random.default_rng(seed)
        self.sizes: Indices = np.diff(problem.table.start)
        self.fallback = solve(problem, limits, "loss").plan
        self.use = self._used()
        self.barren = 0

    def first(self, start: Sequence[Plan], population: int) -> list[Plan]:
        """Return the solver's plan, those given that fit, and mutations of them."""
        given = [plan for plan in start if self.problem.fits(plan, self.limits)]
        known = list(dict.fromkeys([self.fallback, *given]))
        more = [
            self._inside(self._mutated(np.array(known[k % len(known)].choices, np.intp), 3.0))
            for k in range(population - len(known))
        ]
        return known + more

    def children(self, parents: Sequence[Plan], count: int) -> list[Plan]:
        """Return as many children of parents ranked from the best."""
        genes = np.array([plan.choices for plan in parents], np.intp).reshape(len(parents), -1)
        made: list[Plan] = []
        for _ in range(count):
            one, other = self.rng.integers(0, len(parents), (2, 2)).min(axis=1)
            mixed = np.where(self.rng.random(len(self.sizes)) < 0.5, genes[one], genes[other])
            made.append(self._inside(self._mutated(mixed, 1.0 + self.barren)))
        return made

    def _mutated(self, choices: Indices, changes: float) -> Indices:
        """Return choices of which ``changes`` on average are drawn anew."""
        drawn = self.rng.integers(0, self.sizes)
        changed = self.rng.random(len(self.sizes)) < changes / max(len(self.sizes), 1)
        return np.where(changed, drawn, choices)

    def _inside(self, choices: Indices) -> Plan:
        """Return the plan with decisions made smaller, one at random after the other, until it keeps the limits."""
        table = self.problem.table
        rows = table.start[:-1] + choices
        while not self.problem.fits(table.plan(rows), self.limits):
            smaller = np.flatnonzero(self.use < self.use[rows][table.owner])
            if not len(smaller):
                return self.fallback
            decision = self.rng.choice(np.unique(table.owner[smaller]))
            rows[decision] = self.rng.choice(smaller[table.owner[smaller] == decision])
        return table.plan(rows)

    def _used(self) -> Doubles:
        """Return how much of what is limited each option uses, as a share of its limit."""
        table = self.problem.table
        use: Doubles = np.zeros(len(table.loss))
        for quantity in ("bytes", "ms"):
            if (limit := self.limits.of(quantity)) is not None:
                share = table.column(quantity) / max(limit, 1e-300)
                use = use + np.where(np.isnan(share), np.inf, share)
        return use
