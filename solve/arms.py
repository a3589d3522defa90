"""Parts of the space of plans whose milliseconds add up: formats that neighbours hand on pay only where all take part.

Prices of single sites do not hold the conversions between an integer chain and float neighbours. So plans in which
every site that can is part of the chain, plans without any, and all plans are three arms; how far measured bytes and
milliseconds are from predicted ones is learned for each by itself.
"""

import dataclasses
from collections.abc import Sequence

from whet.solve.allocation import Decision, Limits, Objective, Plan, Problem
from whet.solve.measuring import Measurement
from whet.solve.neighbours import neighbours
from whet.solve.program import solve

__all__ = ["Arm", "make_arms"]


@dataclasses.dataclass
class Arm:
    """A restricted problem, and what measurements have said of its prices."""

    name: str
    problem: Problem
    kept: Sequence[Sequence[int]]
    """Per decision, which of the options of the whole problem there are."""
    slower: float = 1.0
    """Measured over predicted milliseconds."""
    heavier: int = 0
    """Measured minus predicted bytes."""

    def solve(
        self, limits: Limits, objective: Objective, problem: Problem | None = None
    ) -> tuple[Plan, float]:
        """Return the best plan, as one of the whole problem, and its predicted loss; raises Impossible.

        Another ``problem`` with the same decisions may have other prices.
        """
        given = self.problem if problem is None else restricted(problem, self.kept)
        found = solve(given, self._corrected(limits), objective)
        return self._whole(found.plan), found.loss

    def near(self, plan: Plan, limits: Limits, count: int) -> list[Plan]:
        """Return plans of the arm that differ in one or two decisions, the least predicted loss first."""
        own = Plan(tuple(o.index(k) for o, k in zip(self.kept, plan.choices, strict=True)))
        found = neighbours(self.problem, own, self._corrected(limits), count)
        return [self._whole(other) for other in found]

    def fits(self, plan: Plan, limits: Limits) -> bool:
        """Tell whether a plan of the whole problem is one of this arm, and is expected to keep the limits."""
        pairs = list(zip(self.kept, plan.choices, strict=True))
        if not all(choice in options for options, choice in pairs):
            return False
        own = Plan(tuple(options.index(choice) for options, choice in pairs))
        return self.problem.fits(own, self._corrected(limits))

    def _corrected(self, limits: Limits) -> Limits:
        """Return what predictions have to keep so that measurements keep the limits."""
        return Limits(
            limits.loss,
            None if limits.bytes is None else limits.bytes - self.heavier,
            None if limits.ms is None else limits.ms / self.slower,
        )

    def _whole(self, plan: Plan) -> Plan:
        choices = zip(self.kept, plan.choices, strict=True)
        return Plan(tuple(options[k] for options, k in choices))

    def learn(self, predicted: Measurement, measured: Measurement) -> None:
        """Take note of a plan of this arm that was measured."""
        self.heavier = max(self.heavier, measured.bytes - predicted.bytes)
        if measured.ms is not None and predicted.ms:
            self.slower = measured.ms / predicted.ms


def make_arms(problem: Problem, chained: Sequence[Sequence[bool]]) -> list[Arm]:
    """Return the arms; ``chained`` says per decision and option whether it hands integers on.

    Where no decision has an option of either kind there is one arm.
    """
    everything = [list(range(len(decision.options))) for decision in problem.decisions]
    inside = [
        [k for k in options if chained[d][k]] or options for d, options in enumerate(everything)
    ]
    outside = [[k for k in options if not chained[d][k]] for d, options in enumerate(everything)]
    arms = [_arm("any", problem, everything)]
    if inside == everything or not all(outside):
        return arms
    return [_arm("chained", problem, inside), _arm("apart", problem, outside), *arms]


def restricted(problem: Problem, kept: Sequence[Sequence[int]]) -> Problem:
    """Return the problem with some of its options only."""
    decisions = tuple(
        Decision(decision.name, tuple(decision.options[k] for k in options))
        for decision, options in zip(problem.decisions, kept, strict=True)
    )
    return dataclasses.replace(problem, decisions=decisions)


def _arm(name: str, problem: Problem, kept: Sequence[Sequence[int]]) -> Arm:
    return Arm(name, restricted(problem, kept), kept)
