"""The integer program of a problem: interactions left out, or made linear at a plan.

At a plan that takes v_d and sums up to s, the loss of all changes is to first order

    loss(x) ~ sum_d [l(x_d) + <v(x_d), s - v_d>] - sum over pairs of <v_d, v_e>,

exact where a single decision changes.
"""

import dataclasses
import math

import numpy as np

from whet.errors import Impossible
from whet.solve.allocation import Doubles, Indices, Limits, Objective, Plan, Problem
from whet.solve.linear import Linear

__all__ = ["QUANTITIES", "Linearized", "linearize"]

QUANTITIES: tuple[Objective, ...] = ("loss", "bytes", "ms")


@dataclasses.dataclass(frozen=True, eq=False)
class Linearized:
    """A program over some of a problem's options."""

    program: Linear
    options: Indices
    """``[columns]``: the option of each column of the program."""
    limited: tuple[Objective, ...]
    """What each row of the program limits."""

    def plan(self, problem: Problem, chosen: Indices) -> Plan:
        """Return the plan that takes the columns chosen."""
        return problem.table.plan(self.options[chosen])


def linearize(
    problem: Problem, limits: Limits, objective: Objective, at: Plan | None = None
) -> Linearized:
    """Return the program that minimizes ``objective`` under ``limits``, interactions made linear at a plan, if given.

    Where milliseconds count, options without them are left out; raises Impossible if a decision has no other.
    """
    table = problem.table
    columns = {"loss": table.loss, "bytes": table.bytes, "ms": table.ms}
    fixed = {"loss": 0.0, "bytes": float(problem.fixed_bytes), "ms": problem.fixed_ms}
    if at is not None and table.directions is not None:
        columns["loss"], fixed["loss"] = _first_order(table.directions, problem, at)
    limited = tuple(q for q in QUANTITIES if limits.of(q) is not None)
    counts_ms = "ms" in (objective, *limited)
    options = _measured(problem) if counts_ms else np.arange(len(table.loss))
    counted = np.bincount(table.owner[options], minlength=len(problem.decisions))
    usage = [columns[q][options] for q in limited]
    return Linearized(
        Linear(
            np.concatenate([[0], np.cumsum(counted)]).astype(np.intp),
            columns[objective][options],
            np.array(usage, np.float64).reshape(len(limited), len(options)),
            np.array([limits.of(q) for q in limited], np.float64),
            np.array([fixed[q] for q in limited], np.float64),
        ),
        options,
        limited,
    )


def _first_order(directions: Doubles, problem: Problem, at: Plan) -> tuple[Doubles, float]:
    """Return the loss of every option with the rest of a plan in place, and what takes back counting pairs twice."""
    standing = directions[problem.table.rows(at)]
    total = standing.sum(axis=0)
    own = [directions[problem.table.block(d)] @ v for d, v in enumerate(standing)]
    pairs = (float(total @ total) - float(np.square(standing).sum())) / 2
    return np.asarray(problem.table.loss + directions @ total - np.concatenate(own)), -pairs


def _measured(problem: Problem) -> Indices:
    """Return the options that were measured; raises Impossible if a decision has none."""
    known = np.isfinite(problem.table.ms)
    counted = np.bincount(problem.table.owner[known], minlength=len(problem.decisions))
    for decision, count in zip(problem.decisions, counted, strict=True):
        if not count:
            message = f"milliseconds count, and no option of '{decision.name}' was measured"
            raise Impossible(message, "ms", math.inf, math.inf)
    return np.flatnonzero(known)
