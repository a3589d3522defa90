"""The integer program of a problem: interactions left out, or made linear at a plan.

At a plan that takes v_d and sums up to s, the loss of all changes is to first order

    loss(x) ~ sum_d [l(x_d) + <v(x_d), s - v_d>] - sum over pairs of <v_d, v_e>,

exact where a single decision changes.
"""

import dataclasses

import numpy as np

from whet.solve.allocation import Doubles, Limits, Objective, Plan, Problem
from whet.solve.linear import Linear

__all__ = ["QUANTITIES", "Linearized", "linearize"]

QUANTITIES: tuple[Objective, ...] = ("loss", "bytes", "ms")


@dataclasses.dataclass(frozen=True, eq=False)
class Linearized:
    """A program whose columns are a problem's options."""

    program: Linear
    limited: tuple[Objective, ...]
    """What each row of the program limits."""


def linearize(
    problem: Problem, limits: Limits, objective: Objective, at: Plan | None = None
) -> Linearized:
    """Return the program that minimizes ``objective`` under ``limits``, interactions made linear at a plan, if given.

    Every option has to be measured where milliseconds count.
    """
    table = problem.table
    columns: dict[Objective, Doubles] = {"loss": table.loss, "bytes": table.bytes, "ms": table.ms}
    fixed: dict[Objective, float] = {
        "loss": problem.fixed_loss,
        "bytes": float(problem.fixed_bytes),
        "ms": problem.fixed_ms,
    }
    if at is not None and table.directions is not None:
        columns["loss"], pairs = _first_order(table.directions, problem, at)
        fixed["loss"] -= pairs
    limited: tuple[Objective, ...] = tuple(q for q in QUANTITIES if limits.of(q) is not None)
    usage = [columns[q] for q in limited]
    return Linearized(
        Linear(
            table.start,
            columns[objective],
            np.array(usage, np.float64).reshape(len(limited), len(table.loss)),
            np.array([limits.of(q) for q in limited], np.float64),
            np.array([fixed[q] for q in limited], np.float64),
        ),
        limited,
    )


def _first_order(directions: Doubles, problem: Problem, at: Plan) -> tuple[Doubles, float]:
    """Return the loss of every option with the rest of a plan in place, and what takes back counting pairs twice."""
    standing = directions[problem.table.rows(at)]
    total = standing.sum(axis=0)
    own = [directions[problem.table.block(d)] @ v for d, v in enumerate(standing)]
    pairs = (float(total @ total) - float(np.square(standing).sum())) / 2
    return np.asarray(problem.table.loss + directions @ total - np.concatenate(own)), pairs
