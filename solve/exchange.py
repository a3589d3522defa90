"""Improve a plan by single changes and by exchanges between two decisions, on the loss with its interactions.

Changing a decision from option i to a moves the loss by l_a - l_i + <v_a - v_i, s - v_i>, s the sum of the directions
taken; two changes together add <v_a - v_i, v_b - v_j>. Decision after decision takes the best change, alone or with
one of any other decision, that keeps the limits, until a whole round changes nothing.
"""

import dataclasses
import math

import numpy as np

from whet.solve.allocation import Doubles, Indices, Limits, Objective, Plan, Problem, Table

__all__ = ["improve"]

_GAIN = 1e-10
"""A change must gain more than this share of what there is, or sums would be rounded in circles."""
_QUANTITIES: tuple[Objective, ...] = ("loss", "bytes", "ms")


def improve(
    problem: Problem,
    limits: Limits,
    objective: Objective,
    plan: Plan,
    *,
    rounds: int = 20,
    enough: float = -math.inf,
) -> Plan:
    """Return a plan that no single change and no exchange of two improves, starting from one that keeps the limits.

    Of two plans equal in bytes or milliseconds, the one of smaller loss is better. Stops after ``rounds`` rounds, or as
    soon as the objective is no more than ``enough``. Options without milliseconds are not taken where these count. The
    result is never worse than ``plan``.
    """
    search = _Search(problem, limits, objective, plan)
    for _ in range(rounds):
        if not search.round(enough):
            break
    found = problem.table.plan(search.taken)
    worse = problem.value(found, objective) > problem.value(plan, objective)
    return plan if worse or not problem.fits(found, limits) else found


@dataclasses.dataclass(eq=False)
class _Changes:
    """What changes cost: one number per option (alone), or a table (with another)."""

    loss: Doubles
    bytes: Doubles
    ms: Doubles

    def of(self, quantity: Objective) -> Doubles:
        return {"loss": self.loss, "bytes": self.bytes, "ms": self.ms}[quantity]


class _Search:
    """The plan as it is, and what every single change would do to it."""

    def __init__(self, problem: Problem, limits: Limits, objective: Objective, plan: Plan) -> None:
        self.table: Table = problem.table
        self.objective: Objective = objective
        self.taken: Indices = self.table.rows(plan)
        self.counts_ms = objective == "ms" or limits.ms is not None
        self.allowed = (
            np.isfinite(self.table.ms) if self.counts_ms else np.ones(len(self.table.loss), bool)
        )
        self.limits = {"loss": limits.loss, "bytes": limits.bytes, "ms": limits.ms}
        self.fixed = {"loss": 0.0, "bytes": float(problem.fixed_bytes), "ms": problem.fixed_ms}
        directions = self.table.directions
        self.directions = np.zeros((len(self.allowed), 0)) if directions is None else directions
        self._refresh()

    def round(self, enough: float) -> bool:
        """Give every decision its best change; tell whether anything changed."""
        before = self.taken.copy()
        for decision in range(len(self.taken)):
            if self.totals[self.objective] <= enough:
                return False
            self._turn(decision)
        return not np.array_equal(before, self.taken)

    def _turn(self, decision: int) -> None:
        """Make the best change of a decision, with or without one of another."""
        low, high = self.table.start[decision], self.table.start[decision + 1]
        block = np.arange(low, high)
        block = block[self.allowed[block] & (block != self.taken[decision])]
        if not len(block):
            return
        partners = self._partners(decision, block)
        pairs = self._together(block, partners)
        best = self._best(pairs)
        if best is None:
            return
        first, second = np.unravel_index(best, pairs.loss.shape)
        rows = [int(block[first])]
        if second < len(partners):
            rows.append(int(partners[second]))
        for row in rows:
            self.taken[self.table.owner[row]] = row
        self._refresh()

    def _partners(self, decision: int, block: Indices) -> Indices:
        """Return the changes elsewhere that can make a change of this decision possible or worth it."""
        useful = self.allowed & (self.table.owner != decision)
        useful &= self.taken[self.table.owner] != np.arange(len(useful))
        for quantity, room in self._rooms().items():
            change = self.alone.of(quantity)
            least = change[block].min() + change
            if quantity == "loss":
                least = least - self.lengths[block].max() * self.lengths
            useful &= least <= room
        gain = self.alone.of(self.objective)
        possible = gain[block].min() + gain
        if self.objective == "loss":
            useful &= possible - self.lengths[block].max() * self.lengths < 0
        else:
            useful &= possible <= 0
        return np.flatnonzero(useful)

    def _together(self, block: Indices, partners: Indices) -> _Changes:
        """Return ``[block, partners + 1]``: both changes at once; the last column is the change alone."""

        def summed(change: Doubles) -> Doubles:
            other = np.append(change[partners], 0.0)
            return np.asarray(change[block][:, None] + other)

        loss = summed(self.alone.loss)
        if self.directions.shape[1] and len(partners):
            v = self.directions
            moved = v[block] - v[self.taken[self.table.owner[block[0]]]]
            loss[:, :-1] += moved @ v[partners].T
            standing = moved @ v[self.taken].T
            loss[:, :-1] -= standing[:, self.table.owner[partners]]
        return _Changes(loss, summed(self.alone.bytes), summed(self.alone.ms))

    def _best(self, changes: _Changes) -> int | None:
        """Return the flat index of the change that gains most and keeps the limits; None if none gains."""
        fits = np.ones(changes.loss.shape, bool)
        for quantity, room in self._rooms().items():
            fits &= changes.of(quantity) <= room
        gain = np.where(fits, changes.of(self.objective), np.inf)
        best = int(np.argmin(gain))
        if gain.flat[best] < -self._tolerance(self.objective):
            return best
        if self.objective == "loss":
            return None
        level = np.where(gain <= 0, changes.loss, np.inf)
        best = int(np.argmin(level))
        return best if level.flat[best] < -self._tolerance("loss") else None

    def _rooms(self) -> dict[Objective, float]:
        """Return what is left under each limit, less what rounding could take."""
        return {
            q: limit - self.totals[q] - (0.0 if q == "bytes" else 1e-12 * self.sizes[q])
            for q in _QUANTITIES
            if (limit := self.limits[q]) is not None
        }

    def _tolerance(self, quantity: Objective) -> float:
        return _GAIN * self.sizes[quantity]

    def _refresh(self) -> None:
        """Work out totals and single changes anew; about a multiplication of all directions by one vector."""
        table, taken, v = self.table, self.taken, self.directions
        total = v[taken].sum(axis=0)
        pull = v @ total
        standing = v[taken]
        own = np.concatenate(
            [v[table.start[d] : table.start[d + 1]] @ standing[d] for d in range(len(taken))]
            or [np.zeros(0)]
        )
        now = taken[table.owner]
        loss = table.loss - table.loss[now] + pull - pull[now] - own + own[now]
        self.alone = _Changes(
            np.asarray(loss), table.bytes - table.bytes[now], self._ms_changes(now)
        )
        squares = np.einsum("nk,nk->n", v, v)
        self.lengths = np.sqrt(np.maximum(squares - 2 * own + squares[now], 0.0))
        pairs = (float(total @ total) - float(np.square(standing).sum())) / 2
        self.totals: dict[Objective, float] = {
            "loss": float(table.loss[taken].sum()) + pairs,
            "bytes": self.fixed["bytes"] + float(table.bytes[taken].sum()),
            "ms": self.fixed["ms"] + float(np.nansum(table.ms[taken])),
        }
        self.sizes: dict[Objective, float] = {
            "loss": float(np.abs(table.loss[taken]).sum()) + abs(pairs),
            "bytes": self.totals["bytes"],
            "ms": self.totals["ms"],
        }

    def _ms_changes(self, now: Indices) -> Doubles:
        return np.asarray(self.table.ms - self.table.ms[now])
