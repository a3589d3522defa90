"""Find the best mixture under a budget: predict, solve, apply, measure, correct, and again."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from whet.errors import Impossible
from whet.solve.allocation import Limits, Objective, Plan, Problem
from whet.solve.arms import Arm, make_arms
from whet.solve.correction import correct, corrected, spearman, without_interactions
from whet.solve.genetic import genetic
from whet.solve.judging import Budgets, Judge, objective_of
from whet.solve.measuring import Measurement
from whet.solve.program import solve
from whet.solve.trials import Trial, Trials

__all__ = ["AS_FAST", "Found", "Search"]

_RANDOM = 16
"""Random mixtures that predictions are held against before anything is chosen."""
_ADDITIVE = 0.5
"""Below this rank correlation of predicted and measured losses, plans are bred instead."""
_ROUNDS = 12
_CORRECTIONS = 3
"""Plans that are measured for one limit on the loss, as long as measurements lead to others."""
AS_FAST = 1.03
"""Without a limit on milliseconds a plan may take so much of the source's: within the doubt of a measurement."""
_NEAR, _STEPS = 12, 3
"""Neighbours of a plan that are measured at a time, and how often."""
_FINALISTS = 6
"""Plans of least measured loss whose metric decides, where there is one."""
_BRED = 120
"""Plans that are measured to breed others from."""
_CLOSE = 1.1
"""Limits on the loss that differ by no more are not told apart."""


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


class Search:
    """One search over the plans of one problem."""

    def __init__(
        self,
        problem: Problem,
        trials: Trials,
        budgets: Budgets,
        *,
        seed: int = 0,
        seconds: float = math.inf,
        objective: Objective | None = None,
        as_fast: bool = True,
        better: Callable[[Trial], None] = lambda _trial: None,
    ) -> None:
        """Search for ``seconds`` at most; ``better`` hears of every new best trial.

        ``as_fast`` looks for a plan that is no slower than the source first, where milliseconds have no limit.
        """
        self._problem = self._predicted = problem
        self._trials = trials
        self._source = trials.source
        self._seed = seed
        self._end = time.monotonic() + seconds
        self._as_fast = as_fast
        self._better = better
        self._best: Trial | None = None
        self._whole: list[Trial] = []
        """All that was measured about whole plans, in that order."""
        wanted = objective or objective_of(budgets)
        if wanted == "ms" and problem.ms(self._nothing()) is None:
            wanted = "bytes"
        self._judge = Judge(budgets, wanted)

    def run(self) -> Found:
        """Return the best plan that was measured to keep the budget, or the one that comes closest."""
        correlation = self._calibrate()
        self._arms = make_arms(self._problem, self._trials.market.chained)
        self._introduce()
        reason = ""
        for limit in self._speeds():
            budgets = dataclasses.replace(self._judge.budgets, ms=limit)
            self._judge = dataclasses.replace(self._judge, budgets=budgets)
            reason = self._attempt(correlation)
            if not reason:
                break
        trials = list(self._trials)
        return Found(self._best, trials, self._source, correlation, self._problem, reason)

    def _introduce(self) -> None:
        """Measure the fastest plan of each arm: without that, nothing is known of its conversions."""
        if self._source.ms is None or self._problem.ms(self._nothing()) is None:
            return
        for arm in self._arms:
            with contextlib.suppress(Impossible):
                self._try(arm.solve(Limits(), "ms")[0], arm)

    def _speeds(self) -> list[float | None]:
        """Return limits on milliseconds, one after the other: the user's, or the source's and then none."""
        unknown = self._source.ms is None or self._problem.ms(self._nothing()) is None
        wanted = self._judge.budgets.ms
        given = wanted is not None or self._judge.objective == "ms"
        if given or unknown or not self._as_fast:
            return [wanted]
        assert self._source.ms is not None
        return [self._source.ms * AS_FAST, None]

    def _nothing(self) -> Plan:
        """Return the plan that keeps every site as it is."""
        return Plan((0,) * len(self._problem.decisions))

    def _attempt(self, correlation: float) -> str:
        """Search within the limits; return why the budget is missed, or an empty string."""
        try:
            if self._judge.budgets.drop is not None:
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
        return "; ".join(self._judge.broken(self._best))

    def _calibrate(self) -> float:
        """Measure random mixtures and uniform ones; correct the prices by what they show; return the correlation."""
        plans = [*self._random(), *self._uniform()]
        trials = self._trials.losses(self._problem, plans, "random", "random mixture")
        first = trials[:_RANDOM]
        correlation = spearman([t.predicted.loss for t in first], [t.measured.loss for t in first])
        sane = [t for t in trials if math.isfinite(t.measured.loss)]
        factors = correct(self._problem, [t.plan for t in sane], [t.measured.loss for t in sane])
        self._problem = corrected(self._problem, factors)
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
            arm, plan = self._next(self._judge.limits)
            if self._judge.objective == "loss":
                plan = self._polished(arm, plan)
            trial = self._try(plan, arm)
            if self._judge.fits(trial):
                self._offer(trial)
                self._compare(arm, trial)
                return
            if (arm.name, plan) in seen or self._late():
                return
            seen.add((arm.name, plan))

    def _polished(self, arm: Arm, plan: Plan) -> Plan:
        """Return the plan of least measured loss among those that prices of several kinds choose, and near the best.

        Prices as they were before correction, and without interactions, choose other plans; so does chance.
        """
        plans, limits = [plan], self._judge.limits
        plain = without_interactions(self._problem)
        for problem in (self._predicted, plain, without_interactions(self._predicted)):
            with contextlib.suppress(Impossible):
                plans.append(arm.solve(limits, "loss", problem)[0])
        best = self._least(plans)
        for _ in range(_STEPS):
            near = [p for p in arm.near(best, limits, 4 * _NEAR) if p not in self._trials][:_NEAR]
            found = self._least([best, *near])
            if found == best or self._late():
                break
            best = found
        return best

    def _least(self, plans: Sequence[Plan]) -> Plan:
        """Return the plan of least measured loss."""
        trials = self._trials.losses(self._problem, plans, "near", "plan nearby")
        return min(trials, key=lambda trial: trial.measured.loss).plan

    def _compare(self, arm: Arm, first: Trial) -> None:
        """Let the metric decide among the plans of least measured loss that fit."""
        if self._judge.objective != "loss" or first.measured.scores is None:
            return
        near = [t for t in self._trials if t.why == "near" and arm.fits(t.plan, self._judge.limits)]
        near.sort(key=lambda trial: trial.measured.loss)
        for trial in near[:_FINALISTS]:
            if not self._late():
                self._offer(self._try(trial.plan, arm))

    def _next(self, limits: Limits) -> tuple[Arm, Plan]:
        """Return the plan that is predicted to be best, of all arms; raises Impossible."""
        found: list[tuple[float, int, Plan]] = []
        reasons: list[Impossible] = []
        for number, arm in enumerate(self._arms):
            try:
                plan, loss = arm.solve(limits, self._judge.objective)
            except Impossible as reason:
                reasons.append(reason)
                continue
            ms = self._problem.ms(plan)
            value = {
                "loss": loss,
                "bytes": self._problem.bytes(plan) + arm.heavier,
                "ms": math.inf if ms is None else ms * arm.slower,
            }
            found.append((float(value[self._judge.objective]), number, plan))
        if not found:
            raise reasons[-1]
        _, number, plan = min(found, key=lambda item: item[:2])
        return self._arms[number], plan

    def _bisect(self) -> None:
        """Find the largest predicted loss whose plan keeps the measured drop."""
        low, high = self._ends()
        if self._judge.keeps(self._solved(high)):
            return
        if not self._judge.keeps(self._solved(low)):
            return
        for _ in range(_ROUNDS):
            if high / low < _CLOSE or self._late():
                return
            middle = math.sqrt(low * high)
            if self._judge.keeps(self._solved(middle)):
                low = middle
            else:
                high = middle

    def _ends(self) -> tuple[float, float]:
        """Return the smallest predicted loss within the other limits, and the largest that any arm would choose."""
        least = solve(self._problem, self._judge.limits, "loss")
        most: list[float] = []
        for arm in self._arms:
            with contextlib.suppress(Impossible):
                most.append(arm.solve(self._judge.limits, self._judge.objective)[1])
        high = max(most, default=least.loss)
        floor = 1e-9 + max(least.loss, high * 1e-4)
        return floor * 1.001, max(high, floor) * 1.001

    def _solved(self, loss: float) -> Trial:
        """Return the best trial with at most this predicted loss; times and sizes are corrected a few times."""
        limits = dataclasses.replace(self._judge.limits, loss=loss)
        tried: list[Trial] = []
        seen: set[tuple[str, Plan]] = set()
        for _ in range(_CORRECTIONS):
            arm, plan = self._next(limits)
            tried.append(self._try(plan, arm))
            self._offer(tried[-1])
            if (arm.name, plan) in seen or self._late():
                break
            seen.add((arm.name, plan))
        return min(tried, key=self._judge.rank)

    def _breed(self) -> None:
        """Where losses do not add up, look at nothing but measured losses."""
        genetic(
            self._problem,
            self._judge.limits,
            lambda plans: [
                trial.measured.loss for trial in self._trials.losses(self._problem, plans, "bred")
            ],
            evaluations=_BRED,
            seed=self._seed,
            better=lambda found: self._offer(self._try(found.plan, None, "bred")),
        )

    def _closest(self, error: Impossible) -> None:
        """Measure what comes closest where no plan keeps all limits."""
        names: dict[str, Objective] = {"bytes": "bytes", "ms": "ms"}
        quantity = names.get(error.quantity, "loss")
        for arm in self._arms:
            with contextlib.suppress(Impossible):
                self._try(arm.solve(self._judge.limits.without(quantity), quantity)[0], arm)
        for trial in self._whole:
            self._offer(trial)

    def _try(self, plan: Plan, arm: Arm | None, why: str = "solved") -> Trial:
        """Measure everything about a plan; the arm that it comes from learns how far its prices are off."""
        trial = self._trials.whole(self._problem, plan, why)
        self._whole.append(trial)
        if arm is not None:
            arm.learn(trial.predicted, trial.measured)
        return trial

    def _offer(self, trial: Trial) -> None:
        if self._best is None or self._judge.prefers(trial, self._best):
            self._best = trial
            self._better(trial)

    def _late(self) -> bool:
        return time.monotonic() > self._end
