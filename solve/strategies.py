"""Other ways to choose under a limit on bytes, as published or as practised, to compare the solver with.

None of them knows interactions; all but the first see the loss only through what their papers take for it. Every one
returns a plan that keeps all limits or raises Impossible with what its own plan comes to.
"""

from collections.abc import Sequence

import numpy as np

from whet.errors import Impossible, UsageError
from whet.ir.array import Array
from whet.solve.allocation import Doubles, Indices, Limits, Objective, Plan, Problem, Table
from whet.solve.linear import Linear, minimize

__all__ = ["baq", "hawq_v2", "ratio_greedy", "uniform"]

_QUANTITIES: tuple[Objective, ...] = ("loss", "bytes", "ms")


def uniform(problem: Problem, limits: Limits, objective: Objective = "loss") -> Plan:
    """Return the plan that takes one label everywhere, of those that keep the limits the one with the least objective.

    A decision that lacks the label takes its option of least loss. Raises Impossible, about the label of fewest bytes.
    """
    labels = dict.fromkeys(o.label for d in problem.decisions for o in d.options)
    plans = [_everywhere(problem, label) for label in labels] or [Plan(())]
    fitting = [plan for plan in plans if problem.fits(plan, limits)]
    if not fitting:
        return _checked(problem, limits, min(plans, key=problem.bytes), "uniform")
    return min(fitting, key=lambda plan: (problem.value(plan, objective), problem.bytes(plan)))


def ratio_greedy(problem: Problem, limits: Limits, errors: Sequence[Array]) -> Plan:
    """Return the plan that grows by the least error of weights per byte saved until it fits.

    ``errors`` holds, per decision, the error of the weights of every option ``[options]``. Starting from the smallest
    errors, the step to a smaller option with the least (increase of error) / (bytes saved) is taken until the limit on
    bytes is kept. Olive's SelectiveMixedPrecision and NNCF's compress_weights do this with two precisions: layers are
    ranked by the error of their weights, and the least sensitive ones become small until a share is reached. Raises
    Impossible.
    """
    table = problem.table
    error = _column(problem, errors, "errors")
    taken = _first_least(table, error, table.bytes)
    while _over(problem, limits, taken) > 0:
        saved = table.bytes[taken][table.owner] - table.bytes
        increase = error - error[taken][table.owner]
        step = _steepest(increase, saved)
        if step is None:
            break
        taken[table.owner[step]] = step
    return _checked(problem, limits, table.plan(taken), "greedy by ratio")


def hawq_v2(
    problem: Problem, limits: Limits, traces: Sequence[float], perturbations: Sequence[Array]
) -> Plan:
    """Return the point of the Pareto front of size and Omega = sum_d mean_trace(H_d) ||Q(W_d) - W_d||² at the limit.

    Dong et al., HAWQ-V2 (NeurIPS 2020), equation 11: of all bit settings of a size, the one of least Omega, found here
    exactly. ``traces`` are traces of the Hessian divided by the number of weights, ``[decisions]``; ``perturbations``
    hold, per decision, the squared norms of the change of the weights ``[options]``. Raises Impossible.
    """
    table = problem.table
    factors = np.asarray(traces, np.float64)
    if factors.shape != (len(problem.decisions),):
        raise UsageError(
            f"traces have shape {list(factors.shape)}, expected [{len(problem.decisions)}]"
        )
    omega = factors[table.owner] * _column(problem, perturbations, "perturbations")
    limited = limits.bytes is not None
    program = Linear(
        table.start,
        omega,
        table.bytes[None][: int(limited)],
        np.array([limits.bytes] if limited else [], np.float64),
        np.array([problem.fixed_bytes] if limited else [], np.float64),
    )
    found = minimize(program)
    smallest = _first_least(table, table.bytes, omega)
    return _checked(
        problem, limits, table.plan(smallest if found is None else found.chosen), "HAWQ-V2"
    )


def baq(
    problem: Problem,
    limits: Limits,
    sensitivities: Sequence[float],
    weights: Sequence[int],
    bits: Sequence[Array],
) -> Plan:
    """Return the plan nearest to the bits that make the loss of every weight equal.

    Zhang et al., BAQ (arXiv 2506.05664): with n_d weights that lose s_d 4^-b_d each, the least sum under
    sum_d n_d b_d = B is where all s_d 4^-b_d are equal,

        b_d = B / N + 1/2 log2(s_d / g),   log g = sum_d n_d log s_d / N,   N = sum_d n_d.

    B is the limit on bytes, times eight. Each b_d is rounded to the nearest of its options; while that is too large,
    the step down that loses least per byte is taken, and then steps up that fit, the most gained per byte first.
    ``sensitivities`` s and ``weights`` n are ``[decisions]``; ``bits`` hold, per decision, the bits of every option
    ``[options]``. Raises Impossible, and UsageError without a limit on bytes.
    """
    if limits.bytes is None:
        raise UsageError("BAQ shares out bytes, and they are not limited")
    table = problem.table
    counts = np.asarray(weights, np.float64)
    s = np.asarray(sensitivities, np.float64)
    if not s.shape == counts.shape == (len(problem.decisions),) or (s < 0).any():
        raise UsageError(
            f"sensitivities have shape {list(s.shape)} and weights {list(counts.shape)}, "
            f"expected [{len(problem.decisions)}], 0 or more"
        )
    mean = 8 * (limits.bytes - problem.fixed_bytes) / counts.sum()
    wanted = _equal_loss(s, counts, mean)
    width = _column(problem, bits, "bits")
    lost = (s * counts)[table.owner] * np.exp2(-2 * width)
    taken = _first_least(table, np.abs(width - wanted[table.owner]), table.bytes)
    _repair(problem, limits, taken, lost)
    return _checked(problem, limits, table.plan(taken), "BAQ")


def _equal_loss(s: Doubles, counts: Doubles, mean: float) -> Doubles:
    """Return the closed form's bits ``[decisions]``; what is not sensitive counts as the least that is."""
    positive = s[s > 0]
    logs = np.log2(np.maximum(s, positive.min() if len(positive) else 1.0))
    return np.asarray(mean + (logs - np.average(logs, weights=counts)) / 2)


def _repair(problem: Problem, limits: Limits, taken: Indices, lost: Doubles) -> None:
    """Step down until the bytes fit, then up as long as they do; in place."""
    table = problem.table
    while _over(problem, limits, taken) > 0:
        saved = table.bytes[taken][table.owner] - table.bytes
        step = _steepest(lost - lost[taken][table.owner], saved)
        if step is None:
            return
        taken[table.owner[step]] = step
    while True:
        added = table.bytes - table.bytes[taken][table.owner]
        gained = lost[taken][table.owner] - lost
        room = -_over(problem, limits, taken)
        useful = (gained > 0) & (added <= room)
        if not useful.any():
            return
        rate = np.where(useful, gained / np.maximum(added, 1e-9), -np.inf)
        step = int(np.argmax(rate))
        taken[table.owner[step]] = step


def _steepest(increase: Doubles, saved: Doubles) -> int | None:
    """Return the option with the least increase per byte saved, None if no option saves a byte."""
    if not (saved > 0).any():
        return None
    return int(np.argmin(np.where(saved > 0, increase / np.where(saved > 0, saved, 1.0), np.inf)))


def _over(problem: Problem, limits: Limits, taken: Indices) -> float:
    """Return by how many bytes the limit is exceeded; negative is room, and no limit is endless room."""
    if limits.bytes is None:
        return -np.inf
    return problem.fixed_bytes + float(problem.table.bytes[taken].sum()) - limits.bytes


def _first_least(table: Table, first: Doubles, second: Doubles) -> Indices:
    """Return per decision the option least in ``first``, of equals the one least in ``second``."""
    order = np.lexsort((second, first, table.owner))
    return np.asarray(order[table.start[:-1]], np.intp)


def _everywhere(problem: Problem, label: str) -> Plan:
    choices: list[int] = []
    for decision in problem.decisions:
        found = decision.find(label)
        losses = [option.loss for option in decision.options]
        choices.append(int(np.argmin(losses)) if found is None else found)
    return Plan(tuple(choices))


def _column(problem: Problem, values: Sequence[Array], what: str) -> Doubles:
    """Return per-decision arrays one after the other ``[n]``; raises UsageError where they do not match the options."""
    if len(values) != len(problem.decisions):
        raise UsageError(f"{len(values)} {what} for {len(problem.decisions)} decisions")
    for decision, given in zip(problem.decisions, values, strict=True):
        if np.shape(given) != (len(decision.options),):
            raise UsageError(
                f"{what} of '{decision.name}' have shape {list(np.shape(given))}, "
                f"expected [{len(decision.options)}]"
            )
    return np.concatenate([np.zeros(0), *(np.asarray(v, np.float64) for v in values)])


def _checked(problem: Problem, limits: Limits, plan: Plan, strategy: str) -> Plan:
    for quantity in _QUANTITIES:
        limit, value = limits.of(quantity), problem.value(plan, quantity)
        if limit is not None and value > limit:
            raise Impossible(
                f"{quantity} is limited to {limit:.10g}, the plan of {strategy} comes to {value:.10g}",
                quantity,
                limit,
                value,
            )
    return plan
