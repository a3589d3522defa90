"""Improve a plan by single changes and by exchanges between two decisions, on the loss with its interactions.

Changing a decision from option i to a moves the loss by l_a - l_i + <v_a - v_i, s - v_i>, s the sum of the directions
taken; two changes together add <v_a - v_i, v_b - v_j>. Decision after decision takes the best change, alone or with
one elsewhere, that keeps the limits, until a whole round changes nothing. Elsewhere is everywhere in problems of up
to 1024 options; beyond, it is the 256 changes that cost least, what is limited paid for at the multipliers of the
linear relaxation (four times as many led to plans that were no better, with 500 sites of 12 options).
"""

import math
from collections.abc import Sequence

import numpy as np

from whet.solve.allocation import Doubles, Floats, Indices, Limits, Objective, Plan, Problem
from whet.solve.linear import multipliers
from whet.solve.linearization import QUANTITIES, linearize

__all__ = ["improve"]

_GAIN = 1e-10
"""A change must gain more than this share of what there is, or sums would be rounded in circles."""
_COMPLETE, _PARTNERS = 1024, 256
"""Options up to which all are partners of all, and how many partners there are beyond."""
_WORTH = 1e-3
"""A round over more options than are searched completely must gain this share of what there is, or it is the last."""
_PRODUCTS = 8192
"""Options up to which all products of two directions are kept: a quarter of a gigabyte."""


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

    Where there are more options than partners, a round that gains next to nothing is the last. Of two plans equal in
    bytes or milliseconds, the one of smaller loss is better. Stops after ``rounds`` rounds, or as soon as the objective
    is no more than ``enough``. The result is never worse than ``plan``. Every option has to be
    measured where milliseconds count.
    """
    search = _Search(problem, limits, objective, plan)
    worth = _WORTH if len(problem.table.loss) > _COMPLETE else 0.0
    for _ in range(rounds):
        before = search.totals[objective]
        if not search.round(enough) or before - search.totals[objective] < worth * abs(before):
            break
    found = problem.table.plan(search.taken)
    worse = problem.value(found, objective) > problem.value(plan, objective)
    return plan if worse or not problem.fits(found, limits) else found


class _Search:
    """The plan as it is, and what every single change would do to it."""

    def __init__(self, problem: Problem, limits: Limits, objective: Objective, plan: Plan) -> None:
        self.problem, self.limits, self.table = problem, limits, problem.table
        self.objective: Objective = objective
        directions = self.table.directions
        self.v = np.zeros((len(self.table.loss), 0)) if directions is None else directions
        self.taken = self.table.rows(plan)
        self.standing = self.v[self.taken]
        blocks = [self.v[self.table.block(d)] @ v for d, v in enumerate(self.standing)]
        self.own = np.concatenate([np.zeros(0), *blocks])
        self.complete = len(self.v) <= _COMPLETE
        self.pull = self.v @ self.standing.sum(axis=0)
        wanted = self.v.shape[1] > 0 and len(self.v) <= _PRODUCTS
        self.products = self.table.products if wanted else None
        self.prices: Sequence[float] | None = None
        self.since = 0
        self._refresh()

    def round(self, enough: float) -> bool:
        """Give every decision its best change; tell whether anything changed."""
        self.pull = self.v @ self.standing.sum(axis=0)
        self._refresh()
        self._choose_partners()
        changed = False
        for decision in range(len(self.taken)):
            if self.totals[self.objective] <= enough:
                return False
            if self._turn(decision):
                changed, self.since = True, 0
            self.since += 1
            if self.since > len(self.taken):
                return False
        return changed

    def _turn(self, decision: int) -> bool:
        """Make the best change of a decision, with or without one of the partners; tell whether there was one."""
        block = np.arange(len(self.table.loss))[self.table.block(decision)]
        block = block[block != self.taken[decision]]
        if not len(block):
            return False
        changes = self._together(decision, block)
        best = self._best(changes)
        if best is None:
            return False
        first, second = divmod(best, len(self.partners) + 1)
        rows = [int(block[first]), *(int(k) for k in self.partners[second : second + 1])]
        if len(rows) == 2 and not self._holds(rows[0], rows[1]):
            return False
        if self._close(float(changes["loss"].flat[best]), float(changes["ms"].flat[best])):
            after = self.taken.copy()
            after[self.table.owner[rows]] = rows
            if not self.problem.fits(self.table.plan(after), self.limits):
                return False
        for row in rows:
            self._take(row)
        self._refresh()
        return True

    def _choose_partners(self) -> None:
        """Find the changes that cost least, what is limited paid for at the relaxation's multipliers at the start."""
        if self.prices is None:
            at = self.table.plan(self.taken)
            made = linearize(self.problem, self.limits, self.objective, at)
            prices = multipliers(made.program)
            self.limited = made.limited
            self.prices = [0.0] * len(made.limited) if prices is None else list(prices)
        cost = self.alone[self.objective].copy()
        for quantity, price in zip(self.limited, self.prices, strict=True):
            cost += price * self.alone[quantity]
        cost[self.taken] = np.inf
        order = np.argsort(cost, kind="stable")[: None if self.complete else _PARTNERS]
        self.partners = np.asarray(order[np.isfinite(cost[order])], np.intp)
        self.owners = self.table.owner[self.partners]
        if self.products is None:
            self.moved = np.asarray(self.v[self.partners] - self.standing[self.owners], np.float32)

    def _together(self, decision: int, block: Indices) -> dict[Objective, Doubles]:
        """Return per quantity ``[block, partners + 1]``: both changes at once; the last column is the change alone."""
        found: dict[Objective, Doubles] = {
            q: np.add.outer(change[block], np.append(change[self.partners], 0.0))
            for q, change in self.alone.items()
        }
        if self.v.shape[1]:
            found["loss"][:, :-1] += self._crossed(decision, block)
        useless = (self.owners == decision) | (self.taken[self.owners] == self.partners)
        found["loss"][:, :-1][:, useless] = np.nan
        return found

    def _crossed(self, decision: int, block: Indices) -> Doubles | Floats:
        """Return <v_a - v_i, v_b - v_j> for the options of a block and the partners ``[block, partners]``."""
        if self.products is not None:
            rows = np.append(block, self.taken[decision])[:, None]
            moved = (
                self.products[rows, self.partners] - self.products[rows, self.taken[self.owners]]
            )
            return np.asarray(moved[:-1] - moved[-1:])
        change = np.asarray(self.v[block] - self.standing[decision], np.float32)
        # Vector units of some machines raise flags for numbers beyond the ends of the arrays.
        with np.errstate(all="ignore"):
            return np.asarray(change @ self.moved.T)

    def _holds(self, one: int, other: int) -> bool:
        """Tell whether two changes gain and keep the limits in double precision as they seemed to in single."""
        first, second = (self.v[row] - self.standing[self.table.owner[row]] for row in (one, other))
        both: dict[Objective, Doubles] = {
            q: change[[one]] + change[[other]] for q, change in self.alone.items()
        }
        both["loss"] += first @ second
        return self._best(both) is not None

    def _close(self, loss: float, ms: float) -> bool:
        """Tell whether changes come so close to a limit that rounding decides; bytes are whole and never do."""
        changes: dict[Objective, float] = {"loss": loss, "ms": ms}
        return any(
            (limit := self.limits.of(q)) is not None
            and self.totals[q] + change > limit - 1e-6 * self.sizes[q]
            for q, change in changes.items()
        )

    def _best(self, changes: dict[Objective, Doubles]) -> int | None:
        """Return the flat index of the change that gains most and keeps the limits; None if none gains."""
        fits = ~np.isnan(changes["loss"])
        for quantity in QUANTITIES:
            if (limit := self.limits.of(quantity)) is not None:
                margin = 0.0 if quantity == "bytes" else 1e-12 * self.sizes[quantity]
                fits &= changes[quantity] <= limit - self.totals[quantity] + margin
        gain = np.where(fits, changes[self.objective], np.inf)
        best = int(np.argmin(gain))
        if gain.flat[best] < -_GAIN * self.sizes[self.objective]:
            return best
        level = np.where(gain <= 0, changes["loss"], np.inf)
        best = int(np.argmin(level))
        return best if level.flat[best] < -_GAIN * self.sizes["loss"] else None

    def _take(self, row: int) -> None:
        """Put an option into the plan and follow what depends on the directions."""
        decision = int(self.table.owner[row])
        if self.products is None or self.complete:
            self.pull += self.v @ (self.v[row] - self.standing[decision])
        else:  # in single precision until the next round
            self.pull += self.products[row] - self.products[self.taken[decision]]
        self.taken[decision], self.standing[decision] = row, self.v[row]
        block = self.table.block(decision)
        self.own[block] = self.v[block] @ self.v[row]
        if self.products is None:
            same = self.owners == decision
            self.moved[same] = self.v[self.partners[same]] - self.v[row]

    def _refresh(self) -> None:
        """Work out totals, and what every change alone does to them."""
        table, taken = self.table, self.taken
        now = taken[table.owner]
        loss = table.loss - table.loss[now]
        loss += self.pull - self.pull[now] - self.own + self.own[now]
        self.alone: dict[Objective, Doubles] = {
            "loss": loss,
            "bytes": table.bytes - table.bytes[now],
            "ms": table.ms - table.ms[now],
        }
        pairs = float((self.pull[taken] - self.own[taken]).sum()) / 2
        size = self.problem.fixed_bytes + float(table.bytes[taken].sum())
        ms = self.problem.fixed_ms + float(np.nansum(table.ms[taken]))
        self.totals: dict[Objective, float] = {
            "loss": self.problem.fixed_loss + float(table.loss[taken].sum()) + pairs,
            "bytes": size,
            "ms": ms,
        }
        least = self.problem.fixed_loss + float(np.abs(table.loss[taken]).sum()) + abs(pairs)
        self.sizes: dict[Objective, float] = {"loss": least, "bytes": size, "ms": ms}
