"""Plans near a plan: one decision changed, or two, cheapest first by the predicted loss."""

import numpy as np

from whet.solve.allocation import Limits, Plan, Problem

__all__ = ["neighbours"]

_SINGLES = 500
"""Changes of one decision that are combined in pairs: those that are predicted to cost the least."""


def neighbours(problem: Problem, plan: Plan, limits: Limits, count: int) -> list[Plan]:
    """Return up to ``count`` plans that keep the limits on bytes and milliseconds, the least predicted loss first.

    With c an option's price without its own square, and v its directions, a plan's loss is Σ c + ½ |Σ v|²; so all pairs
    of changes follow from one product of matrices.
    """
    table = problem.table
    taken = table.rows(plan)
    changes = np.setdiff1d(np.arange(len(table.owner)), taken)
    v = np.zeros((len(table.owner), 1)) if table.directions is None else table.directions
    rest = table.loss - 0.5 * np.square(v).sum(1)
    instead = taken[table.owner[changes]]
    moved = v[changes] - v[instead]
    total = v[taken].sum(0)
    alone = rest[changes] - rest[instead] + moved @ total + 0.5 * np.square(moved).sum(1)
    best = np.argsort(alone, kind="stable")[:_SINGLES]
    changes, instead, moved, alone = changes[best], instead[best], moved[best], alone[best]
    pairs = alone[:, None] + alone[None, :] + moved @ moved.T
    one, other = np.triu_indices(len(changes), 1)
    apart = table.owner[changes[one]] != table.owner[changes[other]]
    one, other = one[apart], other[apart]
    losses = np.concatenate([alone, pairs[one, other]])
    sizes, times = (column[changes] - column[instead] for column in (table.bytes, table.ms))
    fits = np.ones(len(losses), bool)
    for delta, limit, now in (
        (sizes, limits.bytes, problem.bytes(plan)),
        (times, limits.ms, problem.ms(plan)),
    ):
        if limit is not None and now is not None:
            both = np.concatenate([delta, delta[one] + delta[other]])
            fits &= now + both <= limit
    order = np.flatnonzero(fits)[np.argsort(losses[fits], kind="stable")][:count]
    found: list[Plan] = []
    for k in order:
        rows = taken.copy()
        pair = [k] if k < len(changes) else [one[k - len(changes)], other[k - len(changes)]]
        for change in pair:
            rows[table.owner[changes[change]]] = changes[change]
        found.append(table.plan(rows))
    return found
