"""Find the best plan under limits.

Without interactions the plan is the proven optimum of the integer program of ``linear``. With interactions the loss is
a quadratic function of the choices: the program is solved with the prices alone, improved by ``exchange``, then solved
again with the interactions made linear at the best plan so far (``linearization``) and improved again, as long as this
helps. Nothing is random.
"""

import dataclasses
import math

from whet.errors import Impossible
from whet.solve.allocation import Limits, Objective, Plan, Problem
from whet.solve.exchange import improve
from whet.solve.linear import minimize
from whet.solve.linearization import QUANTITIES, linearize

__all__ = ["Solution", "solve"]

_WORTH = 1e-3
"""Interactions are made linear once more where that gained more than this share the last time."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best plan found, and what is proven about it."""

    plan: Plan
    loss: float
    """With interactions."""
    bytes: int
    ms: float | None
    linear: Plan | None
    """The optimum without interactions; None where that program had no solution."""
    gap: float
    """0 if the optimum without interactions is proven; otherwise how far the proven bound is below, as a share."""


def solve(
    problem: Problem,
    limits: Limits,
    objective: Objective = "loss",
    *,
    seconds: float = 30.0,
    rounds: int = 2,
) -> Solution:
    """Return the plan that minimizes ``objective`` and keeps ``limits``.

    Without interactions (directions), the optimum; with them, a plan that no change of one or two decisions improves,
    and no worse than the optimum without interactions wherever that one keeps the limits. ``seconds`` bounds each
    integer program; only one that takes longer has a ``gap`` above 0, and only its plan can depend on the machine.
    ``rounds`` is how often interactions are made linear. Raises Impossible, with the best value that can be had.
    """
    if "ms" not in (objective, *(q for q in QUANTITIES if limits.of(q) is not None)):
        return _Search(problem, limits, objective, seconds, rounds).run()
    measured, kept = _measured(problem)
    found = _Search(measured, limits, objective, seconds, rounds).run()
    linear = None if found.linear is None else _original(found.linear, kept)
    return dataclasses.replace(found, plan=_original(found.plan, kept), linear=linear)


def _measured(problem: Problem) -> tuple[Problem, list[list[int]]]:
    """Return the problem without options that were not measured, and which ones stay; raises Impossible."""
    kept = [[k for k, o in enumerate(d.options) if o.ms is not None] for d in problem.decisions]
    for decision, options in zip(problem.decisions, kept, strict=True):
        if not options:
            message = f"milliseconds count, and no option of '{decision.name}' was measured"
            raise Impossible(message, "ms", math.inf, math.inf)
    decisions = tuple(
        dataclasses.replace(d, options=tuple(d.options[k] for k in options))
        for d, options in zip(problem.decisions, kept, strict=True)
    )
    return dataclasses.replace(problem, decisions=decisions), kept


def _original(plan: Plan, kept: list[list[int]]) -> Plan:
    return Plan(tuple(options[k] for k, options in zip(plan.choices, kept, strict=True)))


class _Search:
    """One call of :func:`solve`."""

    def __init__(
        self, problem: Problem, limits: Limits, objective: Objective, seconds: float, rounds: int
    ) -> None:
        self.problem = problem
        self.objective: Objective = objective
        self.asked, self.limits = limits, limits.without(objective)
        self.seconds, self.rounds = seconds, rounds
        self.interacts = problem.table.directions is not None

    def run(self) -> Solution:
        """Solve without interactions, improve with them, make them linear there, and so on."""
        linear, gap = self._linear(None)
        plan = self._start(linear)
        if self.interacts:
            plan = self._improve(plan)
        best = self.problem.value(plan, self.objective)
        limit = self.asked.of(self.objective)
        if limit is not None and best > limit:
            raise _impossible(self.asked, self.objective, best)
        problem = self.problem
        return Solution(
            plan, problem.loss(plan), problem.bytes(plan), problem.ms(plan), linear, gap
        )

    def _start(self, linear: Plan | None) -> Plan:
        """Return a plan that keeps the limits; raises Impossible if none is found."""
        if linear is not None and (inside := self._repair(linear)) is not None:
            return inside
        for others in (Limits(), self.limits):
            for quantity in QUANTITIES:
                if (limit := self.limits.of(quantity)) is None:
                    continue
                least = solve(
                    self.problem, others.without(quantity), quantity, seconds=self.seconds
                ).plan
                if self.problem.fits(least, self.limits):
                    return least
                best = self.problem.value(least, quantity)
                if best > limit:
                    raise _impossible(others, quantity, best, limit)
        raise AssertionError("the least of every quantity keeps the limits, and no plan does")

    def _improve(self, plan: Plan) -> Plan:
        """Return a plan that neither exchanges nor another linearization improves."""
        best = improve(self.problem, self.limits, self.objective, plan)
        for _ in range(self.rounds):
            again, _gap = self._linear(best)
            inside = None if again in (None, best) else self._repair(again)
            if inside is None:
                return best
            found = improve(self.problem, self.limits, self.objective, inside)
            before, best = best, min(best, found, key=self._key)
            least, most = (self.problem.value(p, self.objective) for p in (best, before))
            if most - least <= _WORTH * abs(most):
                return best
        return best

    def _repair(self, plan: Plan) -> Plan | None:
        """Return a plan that keeps the limits: where interactions break the one on loss, loss is reduced first."""
        if self.problem.fits(plan, self.limits):
            return plan
        if self.limits.loss is None:
            return None
        others = self.limits.without("loss")
        if not self.problem.fits(plan, others):
            return None
        found = improve(self.problem, others, "loss", plan, enough=self.limits.loss)
        return found if self.problem.fits(found, self.limits) else None

    def _linear(self, at: Plan | None) -> tuple[Plan | None, float]:
        """Return the optimum with interactions left out, or made linear at a plan, and its gap."""
        made = linearize(self.problem, self.limits, self.objective, at)
        found = minimize(made.program, self.seconds)
        if found is None:
            return None, 0.0
        gap = (found.value - found.bound) / max(abs(found.value), 1e-300)
        return self.problem.table.plan(found.chosen), gap

    def _key(self, plan: Plan) -> tuple[float, float]:
        return self.problem.value(plan, self.objective), self.problem.loss(plan)


def _impossible(
    others: Limits, quantity: Objective, best: float, limit: float | None = None
) -> Impossible:
    limit = others.of(quantity) if limit is None else limit
    assert limit is not None
    kept = [
        f"{q} at most {value:.10g}"
        for q in QUANTITIES
        if q != quantity and (value := others.of(q)) is not None
    ]
    under = f" with {' and '.join(kept)}" if kept else ""
    return Impossible(
        f"{quantity} is limited to {limit:.10g}, the least that can be had{under} is {best:.10g}",
        quantity,
        limit,
        best,
    )
