"""Minimize a sum of costs over one choice per decision, with a few sums limited: exactly, by a core and HiGHS.

    minimize sum_d c[x_d]   subject to   fixed_k + sum_d a_k[x_d] <= limit_k for every row k

A multiple-choice knapsack. The linear relaxation gives multipliers u >= 0 and with them the Lagrangian bound
L(u) = sum_d min_j (c_j + u·a_j) - u·(limit - fixed). An option whose reduced cost (c_j + u·a_j minus the least of its
decision) exceeds value - L(u) is in no better solution, so only the core of small reduced costs goes to the integer
program; the core grows until that test covers what was left out (Balas & Zemel, Operations Research 28, 1980;
Pisinger, EJOR 83, 1995). HiGHS accepts a row within 1e-6 and a gap of 1e-6, both absolute: rows and costs are scaled so
that this is beyond the tenth digit, every solution is added up again, and one that breaks a limit is cut off by name.
"""

import dataclasses
import itertools
import math
import time
from typing import Any, cast

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from whet.errors import WhetError
from whet.solve.allocation import Doubles, Indices
from whet.solve.quiet import quiet

__all__ = ["Found", "Linear", "minimize", "multipliers"]

_CORE = 200
"""Options beyond one per decision in the first core."""
_REACH = 1e6
"""Largest cost in the integer program."""
_ROW = 1e4
"""Largest number in a row of the integer program."""
_CUTS = 50
"""Plans beyond a limit by less than HiGHS can see that are cut off, one by one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """The program; the options of decision d are the columns start[d] to start[d + 1]."""

    start: Indices
    cost: Doubles
    """``[n]``."""
    usage: Doubles
    """``[rows, n]``, none to three rows."""
    limit: Doubles
    """``[rows]``."""
    fixed: Doubles
    """``[rows]``."""

    def value(self, chosen: Indices) -> float:
        """Return the cost of the columns chosen, one per decision, correctly rounded."""
        return math.fsum(self.cost[chosen])

    def fits(self, chosen: Indices) -> bool:
        """Tell whether every row keeps its limit, each sum correctly rounded."""
        sums = [math.fsum(row[chosen]) for row in self.usage]
        kept = zip(self.fixed, sums, self.limit, strict=True)
        return all(fixed + used <= limit for fixed, used, limit in kept)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A solution and what is proven about it."""

    chosen: Indices
    """``[decisions]``: columns."""
    value: float
    bound: float
    """No solution costs less; equal to ``value`` if it was proven optimal."""


def minimize(program: Linear, seconds: float = 60.0) -> Found | None:
    """Return the optimum, or the best solution in that time with the proven bound; None if there is no solution.

    Raises WhetError if time ran out before any solution was found.
    """
    if len(program.start) == 1:
        chosen = np.zeros(0, np.intp)
        return Found(chosen, 0.0, 0.0) if program.fits(chosen) else None
    relaxed = _relax(program)
    if relaxed is None:
        return None
    return _grow(program, *relaxed, time.monotonic() + seconds)


def _grow(program: Linear, reduced: Doubles, bound: float, end: float) -> Found | None:
    """Solve cores until the last one holds every option that could be part of something better, and little else."""
    n = len(program.cost)
    size = min(n, len(program.start) - 1 + _CORE)
    core = reduced <= np.partition(reduced, size - 1)[size - 1]
    while True:
        found = _solve(program, core, bound, end)
        if found is None:
            if core.all():
                return None
            core = np.ones(n, bool)
            continue
        needed = reduced <= max(found.value - bound, 0.0)
        missing = needed & ~core
        late = time.monotonic() >= end or found.bound < found.value
        if not missing.any():
            if late or _scale(program, core) < 2 * _scale(program, needed):
                return found
        elif late:
            outside = bound + float(reduced[missing].min())
            return dataclasses.replace(found, bound=max(bound, min(found.bound, outside)))
        core = needed


def _relax(program: Linear) -> tuple[Doubles, float] | None:
    """Return reduced costs ``[n]`` and the Lagrangian bound of the linear relaxation; None if it has no solution."""
    prices = multipliers(program)
    if prices is None:
        return None
    shadow = program.cost + prices @ program.usage
    least = np.minimum.reduceat(shadow, program.start[:-1])
    reduced = shadow - np.repeat(least, np.diff(program.start))
    paid = prices * (program.limit - program.fixed)
    rounding = 1e-12 * float(np.abs(least).sum() + np.abs(paid).sum())
    return reduced, math.fsum(least) - math.fsum(paid) - rounding


def multipliers(program: Linear) -> Doubles | None:
    """Return what the linear relaxation gains per unit of every limit ``[rows]``, or None if it has no solution."""
    if len(program.usage) == 1:
        price = _multiplier(program)
        return None if price is None else np.array([price])
    scale = _largest(program.cost)
    usage, room, sizes = _rows(program)
    once = _membership(program.start)
    found: Any = linprog(
        program.cost / scale,
        A_ub=usage if len(usage) else None,
        b_ub=room if len(usage) else None,
        A_eq=once,
        b_eq=np.ones(len(program.start) - 1),
        bounds=(0, None),
        method="highs",
    )
    if found.status == 2 and (room < 0).any():
        return None
    if found.status != 0 or not len(usage):
        return np.zeros(len(usage))
    return np.asarray(np.maximum(-found.ineqlin.marginals, 0.0) * scale / sizes)


def _multiplier(program: Linear) -> float | None:
    """Return the multiplier of a single limit by bisection: the least at which the cheapest options keep it."""
    cost, usage, room = program.cost, program.usage[0], float(program.limit[0] - program.fixed[0])
    first, sizes = program.start[:-1], np.diff(program.start)
    least = float(np.minimum.reduceat(usage, first).sum())
    if least > room:
        return None

    def used(price: float) -> float:
        shadow = cost + price * usage
        cheapest = shadow <= np.repeat(np.minimum.reduceat(shadow, first), sizes)
        return float(np.minimum.reduceat(np.where(cheapest, usage, np.inf), first).sum())

    if used(0.0) <= room:
        return 0.0
    low, high = 0.0, _largest(cost) / _largest(usage)
    while used(high) > room:
        low, high = high, 4 * high
        if not math.isfinite(high):
            return low
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if used(middle) > room else (low, middle)
    return high


def _solve(program: Linear, core: np.ndarray, bound: float, end: float) -> Found | None:
    """Return the best solution within the core, and its bound there; None if the core has no solution."""
    columns = np.flatnonzero(core)
    once = _membership(program.start)[:, columns]
    usage, room, _sizes = _rows(program)
    least, above = _above(program, core)
    scale = _scale(program, core)
    constraints = [LinearConstraint(once, 1, 1)]
    if len(usage):
        constraints.append(
            LinearConstraint(sparse.csr_array(usage[:, columns]), -np.inf, cast("Any", room))
        )
    for _ in range(_CUTS):
        options = {"mip_rel_gap": 0.0, "time_limit": max(end - time.monotonic(), 0.05)}
        with quiet():
            found = milp(
                above / scale,
                integrality=np.ones(len(columns)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options=options,
            )
        if found.x is None:
            if found.status == 1:
                raise WhetError(f"no plan was found in time for {len(least)} decisions")
            return None
        picked = _picked(program.start, columns, found.x)
        if program.fits(columns[picked]):
            value = program.value(columns[picked])
            lowest = math.fsum(least) + scale * float(found.mip_dual_bound)
            proven = found.status == 0
            return Found(
                columns[picked], value, value if proven else min(value, max(bound, lowest))
            )
        cut = np.zeros((1, len(columns)))
        cut[0, picked] = 1
        constraints.append(LinearConstraint(sparse.csr_array(cut), -np.inf, len(least) - 1))
    return None


def _above(program: Linear, core: np.ndarray) -> tuple[Doubles, Doubles]:
    """Return the least cost of every decision within the core, and what the core's options cost above it."""
    inside = np.where(core, program.cost, np.inf)
    least = np.minimum.reduceat(inside, program.start[:-1])
    return least, (inside - np.repeat(least, np.diff(program.start)))[core]


def _scale(program: Linear, core: np.ndarray) -> float:
    """Return what one unit of the integer program's cost stands for; the program is solved to a millionth of that."""
    return _largest(_above(program, core)[1]) / _REACH


def _picked(start: Indices, columns: Indices, x: Doubles) -> Indices:
    """Return per decision the place in ``columns`` of the largest x, which HiGHS left within 1e-6 of one."""
    edges = np.searchsorted(columns, start)
    parts = itertools.pairwise(edges)
    return np.array([low + int(np.argmax(x[low:high])) for low, high in parts], np.intp)


def _rows(program: Linear) -> tuple[Doubles, Doubles, Doubles]:
    """Return usage above the least of each decision, the room left for it, and what both were divided by."""
    least = np.minimum.reduceat(program.usage, program.start[:-1], axis=1)
    above = program.usage - np.repeat(least, np.diff(program.start), axis=1)
    spent = program.fixed + np.array([math.fsum(row) for row in least])
    scale = np.asarray([_largest(row) for row in above], np.float64) / _ROW
    return np.asarray(above / scale[:, None]), np.asarray((program.limit - spent) / scale), scale


def _membership(start: Indices) -> sparse.csc_array:
    """Return ``[decisions, n]``: one where the option belongs to the decision."""
    n = int(start[-1])
    owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return sparse.csc_array((np.ones(n), (owner, np.arange(n))))


def _largest(values: Doubles) -> float:
    return float(np.max(np.abs(values), initial=0.0)) or 1.0
