"""Find the best mixture under a budget: predict, solve, apply, measure, correct, and again."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir

from whet.errors import Impossible
from whet.passes.pipeline import Pipeline
from whet.solve.allocation import Limits, Objective, Plan, Problem
from whet.solve.arms import Arm, make_arms
from whet.solve.correction import correct, corrected, spearman, without_interactions
from whet.solve.genetic import genetic
from whet.solve.measuring import Measurement, Yardstick
from whet.solve.offers import Market
from whet.solve.program import solve

if TYPE_CHECKING:
    from whet.solve.store import Store

__all__ = ["Budgets", "Found", "Search", "Trial", "objective_of"]

_RANDOM = 16
"""Random mixtures that predictions are held against before anything is chosen."""
_ADDITIVE = 0.5
"""Below this rank correlation of predicted and measured losses, plans are bred instead."""
_ROUNDS = 12
_CORRECTIONS = 3
"""Plans that are measured for one limit on the loss, as long as measurements lead to others."""
_AS_FAST = 1.03
"""Without a limit on milliseconds a plan may take so much of the source's: within the doubt of a measurement."""
_NEAR, _STEPS = 12, 3
"""Neighbours of a plan that are measured at a time, and how often."""
_CLOSE = 1.1
"""Limits on the loss that differ by no more are not told apart."""


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Limits in numbers; None does not limit."""

    drop: float | None = None
    bytes: int | None = None
    ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan, what was predicted of it and what was measured."""

    plan: Plan
    why: str
    """``random``, ``near`` (only their losses are measured), ``solved`` or ``bred``."""
    predicted: Measurement
    measured: Measurement
    drop: float | None
    """Of the metric, on the samples that the search may see."""
    doubt: float = 0.0
    """Standard error of the drop."""
    seconds: float = 0.0


@dataclasses.dataclass
class Found:
    """What a search ends with."""

    best: Trial | None
    trials: list[Trial]
    source: Measurement
    correlation: float
    """Rank correlation of predicted and measured losses over random mixtures."""
    problem: Problem
    """With prices as they were corrected."""
    reason: str = ""
    """Why the budget is missed; empty if it is kept."""


def objective_of(budgets: Budgets) -> Objective:
    """Return what is minimized: the loss, or with a limit on the drop, milliseconds or else bytes."""
    if budgets.drop is None:
        return "loss"
    if budgets.ms is None:
        return "ms"
    return "bytes" if budgets.bytes is None else "loss"


class Search:
    """One search over one market."""

    def __init__(
        self,
        market: Market,
        problem: Problem,
        yardstick: Yardstick,
        budgets: Budgets,
        *,
        tail: Pipeline,
        seed: int = 0,
        seconds: float = math.inf,
        objective: Objective | None = None,
        progress: Callable[[str], None] = lambda _message: None,
        better: Callable[[Trial], None] = lambda _trial: None,
        store: "Store | None" = None,
        stamp: str | None = "",
        as_fast: bool = True,
    ) -> None:
        """Search for ``seconds`` at most; ``better`` hears of every new best trial.

        ``as_fast`` looks for a plan that is no slower than the source first, where milliseconds have no limit.
        What ``store`` knows of plans is not measured again; ``stamp`` stands for the metric, None for one that
        nothing stands for.
        """
        self._store = None if stamp is None else store
        self._stamp = stamp
        self._as_fast = as_fast
        self._market = market
        self._problem = problem
        self._yardstick = yardstick
        self._budgets = budgets
        self._tail = tail
        self._seed = seed
        self._end = time.monotonic() + seconds
        self._objective: Objective = objective or objective_of(budgets)
        self._progress = progress
        self._better = better
        self._trials: dict[tuple[Plan, bool], Trial] = {}
        self._best: Trial | None = None
        self._ms = budgets.ms
        """The limit on milliseconds: the user's, or, where loss is minimized, what the source takes."""

    def run(self, model: onnx_ir.Model) -> Found:
        """Return the best plan that was measured to keep the budget, or the one that comes closest."""
        self._model = model
        self._progress("search: measure the source")
        self._source = self._yardstick.source(model)
        if self._objective == "ms" and self._problem.ms(self._nothing()) is None:
            self._objective = "bytes"
        correlation = self._calibrate()
        self._arms = make_arms(self._problem, self._market.chained)
        self._introduce()
        reason = ""
        for limit in self._speeds():
            self._ms = limit
            reason = self._attempt(correlation)
            if not reason:
                break
        return Found(
            self._best,
            list(self._trials.values()),
            self._source,
            correlation,
            self._problem,
            reason,
        )

    def _introduce(self) -> None:
        """Measure the fastest plan of each arm: without that, nothing is known of its conversions."""
        if self._source.ms is None or self._problem.ms(self._nothing()) is None:
            return
        for arm in self._arms:
            with contextlib.suppress(Impossible):
                self._try(arm.solve(Limits(), "ms")[0], "solved", arm=arm)

    def _speeds(self) -> list[float | None]:
        """Return limits on milliseconds, one after the other: the user's, or the source's and then none."""
        unknown = self._source.ms is None or self._problem.ms(self._nothing()) is None
        given = self._budgets.ms is not None or self._objective == "ms"
        if given or unknown or not self._as_fast:
            return [self._budgets.ms]
        assert self._source.ms is not None
        return [self._source.ms * _AS_FAST, None]

    def _nothing(self) -> Plan:
        """Return the plan that keeps every site as it is."""
        return Plan((0,) * len(self._problem.decisions))

    def _attempt(self, correlation: float) -> str:
        """Search within the limits; return why the budget is missed, or an empty string."""
        try:
            if self._budgets.drop is not None:
                self._bisect()
            elif correlation < _ADDITIVE:
                self._breed()
            else:
                self._settle()
        except Impossible as error:
            self._closest(error)
            return str(error)
        if self._best is None:
            return "no plan that was measured fits"
        return "; ".join(self._broken(self._best))

    def _calibrate(self) -> float:
        """Measure random mixtures and uniform ones; correct the prices by what they show; return the correlation."""
        plans = [*self._random(), *self._uniform()]
        trials = [
            self._try(
                plan, "random", f"search: random mixture {k + 1} of {len(plans)}", whole=False
            )
            for k, plan in enumerate(plans)
        ]
        first = trials[:_RANDOM]
        correlation = spearman([t.predicted.loss for t in first], [t.measured.loss for t in first])
        sane = [t for t in trials if math.isfinite(t.measured.loss)]
        factors = correct(self._problem, [t.plan for t in sane], [t.measured.loss for t in sane])
        self._predicted, self._problem = self._problem, corrected(self._problem, factors)
        return correlation

    def _random(self) -> list[Plan]:
        rng = np.random.default_rng(self._seed)
        sizes = [len(decision.options) for decision in self._problem.decisions]
        return [Plan(tuple(int(rng.integers(n)) for n in sizes)) for _ in range(_RANDOM)]

    def _uniform(self) -> list[Plan]:
        labels = dict.fromkeys(o.label for d in self._problem.decisions for o in d.options)
        found = [
            Plan(tuple(d.find(label) or 0 for d in self._problem.decisions)) for label in labels
        ]
        return [plan for plan in dict.fromkeys(found) if any(plan.choices)]

    def _settle(self) -> None:
        """Without a limit on the drop: the best that fits; correct sizes and times until it does."""
        seen: set[tuple[str, Plan]] = set()
        for _ in range(_ROUNDS):
            arm, plan = self._next(self._limits())
            if self._objective == "loss":
                plan = self._polished(arm, plan)
            trial = self._try(plan, "solved", arm=arm)
            if self._fits(trial):
                self._offer(trial)
                return
            if (arm.name, plan) in seen or self._late():
                return
            seen.add((arm.name, plan))

    def _polished(self, arm: Arm, plan: Plan) -> Plan:
        """Return the plan of least measured loss among those that prices of several kinds choose, and near the best.

        Prices as they were before correction, and without interactions, choose other plans; so does chance.
        """
        plans = [plan]
        plain = without_interactions(self._problem)
        for problem in (self._predicted, plain, without_interactions(self._predicted)):
            with contextlib.suppress(Impossible):
                plans.append(arm.solve(self._limits(), "loss", problem)[0])
        best = self._least(plans)
        for _ in range(_STEPS):
            near = [p for p in arm.near(best, self._limits(), 4 * _NEAR) if self._unseen(p)][:_NEAR]
            found = self._least([best, *near])
            if found == best or self._late():
                break
            best = found
        return best

    def _least(self, plans: Sequence[Plan]) -> Plan:
        """Return the plan of least measured loss."""
        measured = [self._try(p, "near", whole=False).measured.loss for p in dict.fromkeys(plans)]
        return list(dict.fromkeys(plans))[int(np.argmin(measured))]

    def _unseen(self, plan: Plan) -> bool:
        return (plan, False) not in self._trials

    def _next(self, limits: Limits) -> tuple[Arm, Plan]:
        """Return the plan that is predicted to be best, of all arms; raises Impossible."""
        found: list[tuple[float, int, Plan]] = []
        reasons: list[Impossible] = []
        for number, arm in enumerate(self._arms):
            try:
                plan, loss = arm.solve(limits, self._objective)
            except Impossible as reason:
                reasons.append(reason)
                continue
            ms = self._problem.ms(plan)
            value = {
                "loss": loss,
                "bytes": self._problem.bytes(plan) + arm.heavier,
                "ms": math.inf if ms is None else ms * arm.slower,
            }
            found.append((float(value[self._objective]), number, plan))
        if not found:
            raise reasons[-1]
        _, number, plan = min(found, key=lambda item: item[:2])
        return self._arms[number], plan

    def _bisect(self) -> None:
        """Find the largest predicted loss whose plan keeps the measured drop."""
        low, high = self._ends()
        if self._keeps(self._solved(high)):
            return
        if not self._keeps(self._solved(low)):
            return
        for _ in range(_ROUNDS):
            if high / low < _CLOSE or self._late():
                return
            middle = math.sqrt(low * high)
            if self._keeps(self._solved(middle)):
                low = middle
            else:
                high = middle

    def _ends(self) -> tuple[float, float]:
        """Return the smallest predicted loss within the other limits, and the largest that any arm would choose."""
        least = solve(self._problem, self._limits(), "loss")
        most: list[float] = []
        for arm in self._arms:
            with contextlib.suppress(Impossible):
                most.append(arm.solve(self._limits(), self._objective)[1])
        high = max(most, default=least.loss)
        floor = 1e-9 + max(least.loss, high * 1e-4)
        return floor * 1.001, max(high, floor) * 1.001

    def _solved(self, loss: float) -> Trial:
        """Return the best trial with at most this predicted loss; times and sizes are corrected a few times."""
        limits = dataclasses.replace(self._limits(), loss=loss)
        tried: list[Trial] = []
        seen: set[tuple[str, Plan]] = set()
        for _ in range(_CORRECTIONS):
            arm, plan = self._next(limits)
            tried.append(self._try(plan, "solved", arm=arm))
            self._offer(tried[-1])
            if (arm.name, plan) in seen or self._late():
                break
            seen.add((arm.name, plan))
        return min(tried, key=self._rank)

    def _breed(self) -> None:
        """Where losses do not add up, look at nothing but measured losses."""
        genetic(
            self._problem,
            self._limits(),
            lambda plan: self._try(plan, "bred", whole=False).measured.loss,
            evaluations=120,
            seed=self._seed,
            better=lambda found: self._offer(self._try(found.plan, "bred")),
        )

    def _closest(self, error: Impossible) -> None:
        """Measure what comes closest where no plan keeps all limits."""
        names: dict[str, Objective] = {"bytes": "bytes", "ms": "ms"}
        quantity = names.get(error.quantity, "loss")
        found = solve(self._problem, self._limits().without(quantity), quantity)
        self._offer(self._try(found.plan, "solved"))

    def _limits(self) -> Limits:
        return Limits(bytes=self._budgets.bytes, ms=self._ms)

    def _try(
        self, plan: Plan, why: str, message: str = "", *, whole: bool = True, arm: Arm | None = None
    ) -> Trial:
        known = self._trials.get((plan, whole))
        if known is not None:
            if arm is not None:
                arm.learn(known.predicted, known.measured)
            return known
        start = time.monotonic()
        count = sum(1 for _, w in self._trials if w)
        self._progress(message or f"search: measure plan {count + 1}")
        predicted = Measurement(
            self._problem.bytes(plan), self._problem.loss(plan), self._problem.ms(plan)
        )
        measured = self._measure(plan, whole=whole)
        drop, doubt = self._drop(measured)
        trial = Trial(plan, why, predicted, measured, drop, doubt, time.monotonic() - start)
        self._trials[plan, whole] = trial
        if arm is not None:
            arm.learn(predicted, measured)
        return trial

    def _measure(self, plan: Plan, *, whole: bool) -> Measurement:
        names = tuple(self._problem.labels(plan).values())
        key = (names, whole, self._stamp)
        known = None if self._store is None else self._store.measurement(key)
        if known is not None:
            return known
        chosen = self._market.chosen(plan.choices)
        found = self._yardstick.plan(self._model, chosen, self._tail, whole=whole)
        if self._store is not None:
            self._store.keep_measurement(key, found)
        return found

    def _drop(self, measured: Measurement) -> tuple[float | None, float]:
        before, after = self._source.scores, measured.scores
        if before is None or after is None:
            return None, 0.0
        doubt = 0.0
        if before.samples is not None and after.samples is not None:
            lost = before.samples - after.samples
            doubt = float(lost.std(ddof=1) / math.sqrt(len(lost)))
        return before.metric - after.metric, doubt

    def _fits(self, trial: Trial) -> bool:
        size, ms = self._budgets.bytes, self._ms
        took = trial.measured.ms
        return (size is None or trial.measured.bytes <= size) and (
            ms is None or (took is not None and took <= ms)
        )

    def _keeps(self, trial: Trial) -> bool:
        """Tell whether a trial keeps every limit; the drop by its standard error, too."""
        limit = self._budgets.drop
        kept = limit is None or (trial.drop is not None and trial.drop + trial.doubt <= limit)
        return kept and self._fits(trial)

    def _broken(self, trial: Trial) -> Iterator[str]:
        b, m = self._budgets, trial.measured
        if b.bytes is not None and m.bytes > b.bytes:
            yield f"the best that was measured has {m.bytes:,} bytes, the budget {b.bytes:,}"
        if self._ms is not None and (m.ms or math.inf) > self._ms:
            yield f"the best that was measured takes {m.ms:.3g} ms, the limit {self._ms:.3g}"
        if b.drop is not None and trial.drop is not None and trial.drop + trial.doubt > b.drop:
            yield (
                f"the metric drops by {trial.drop:.4f} with a standard error of {trial.doubt:.4f}, "
                f"the budget is {b.drop:g}"
            )

    def _offer(self, trial: Trial) -> None:
        if self._best is None or self._rank(trial) < self._rank(self._best):
            self._best = trial
            self._better(trial)

    def _rank(self, trial: Trial) -> tuple[bool, float]:
        value = {
            "loss": trial.measured.loss,
            "bytes": trial.measured.bytes,
            "ms": trial.measured.ms,
        }
        found = value[self._objective]
        return not self._keeps(trial), math.inf if found is None else float(found)

    def _late(self) -> bool:
        return time.monotonic() > self._end
