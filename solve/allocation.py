"""What is chosen: options with prices, decisions among options, plans, and what a plan costs.

The loss of a plan is second order. With ``v`` the directional derivatives of an option's change, one per draw of the
curvature's factor, the loss of all changes together is 1/2 mean_k (sum_sites v_site,k)². Its diagonal part,
1/2 mean v², is the price of an option; the rest are interactions, <v_a, v_b> / draws for every pair of sites. A price
may have been corrected since: then loss = sum of prices + sum over pairs of <v_a, v_b> / draws.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from whet.errors import UsageError
from whet.ir.array import Array

__all__ = [
    "Decision",
    "Doubles",
    "Limits",
    "Objective",
    "Option",
    "Plan",
    "Problem",
    "Table",
    "together",
]

Objective = Literal["loss", "bytes", "ms"]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.intp]]


@dataclasses.dataclass(frozen=True, eq=False)
class Option:
    """One way to realize a site. Raises UsageError for prices that are no prices."""

    label: str
    loss: float
    """Increase of the loss when this option alone is taken; may be negative."""
    bytes: int
    ms: float | None = None
    """Milliseconds; None where it was not measured, and such an option is not taken where milliseconds count."""
    directions: Array | None = None
    """Signed directional derivatives v ``[draws]``, kept as a read-only copy; None interacts with nothing."""

    def __post_init__(self) -> None:
        """Check the prices and copy the directions."""
        if not math.isfinite(self.loss):
            raise UsageError(
                f"option '{self.label}' has loss {self.loss}, expected a finite number"
            )
        if self.bytes < 0:
            raise UsageError(f"option '{self.label}' has {self.bytes} bytes, expected 0 or more")
        if self.ms is not None and not 0 <= self.ms < math.inf:
            raise UsageError(f"option '{self.label}' takes {self.ms} ms, expected 0 or more")
        if self.directions is not None:
            object.__setattr__(self, "directions", self._copied(self.directions))

    def _copied(self, directions: Array) -> Doubles:
        copied = np.array(directions, np.float64)
        if copied.ndim != 1 or not np.isfinite(copied).all():
            raise UsageError(
                f"option '{self.label}' has directions of shape {list(copied.shape)}, "
                "expected [draws], all finite"
            )
        copied.flags.writeable = False
        return copied


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Exactly one of ``options`` is taken: for one site, or for several that must agree (see :func:`together`)."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        """Raise UsageError where nothing can be chosen, or two options share a label."""
        labels = [option.label for option in self.options]
        if not labels:
            raise UsageError(f"decision '{self.name}' has no option, expected at least one")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise UsageError(f"decision '{self.name}' has two options '{twice}', expected one")

    def find(self, label: str) -> int | None:
        """Return the index of the option of that label, or None."""
        labels = [option.label for option in self.options]
        return labels.index(label) if label in labels else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Per decision, in order, the index of the option taken."""

    choices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a plan may cost at most, fixed costs included; None does not limit."""

    loss: float | None = None
    bytes: int | None = None
    ms: float | None = None

    def of(self, quantity: Objective) -> float | None:
        """Return one of the three."""
        return {"loss": self.loss, "bytes": self.bytes, "ms": self.ms}[quantity]

    def without(self, quantity: Objective) -> "Limits":
        """Return the same limits but for one."""
        return Limits(
            None if quantity == "loss" else self.loss,
            None if quantity == "bytes" else self.bytes,
            None if quantity == "ms" else self.ms,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """All options of all decisions as columns; ``n`` options in the order of decisions."""

    start: Indices
    """``[decisions + 1]``: the options of decision d are start[d] to start[d + 1]."""
    owner: Indices
    """``[n]``: the decision of an option."""
    loss: Doubles
    bytes: Doubles
    """``[n]``; whole numbers, exact below 2**53."""
    ms: Doubles
    """``[n]``; not a number where it was not measured."""
    directions: Doubles | None
    """``[n, draws]`` divided by sqrt(draws), so that interactions are inner products; None without interactions."""

    @functools.cached_property
    def products(self) -> Floats | None:
        """All inner products of directions ``[n, n]``, in single precision."""
        if self.directions is None:
            return None
        narrow = self.directions.astype(np.float32)
        return np.asarray(narrow @ narrow.T)

    def column(self, quantity: Objective) -> Doubles:
        """Return one of the three prices of all options ``[n]``."""
        return {"loss": self.loss, "bytes": self.bytes, "ms": self.ms}[quantity]

    def rows(self, plan: Plan) -> Indices:
        """Return the taken options as indices into the columns ``[decisions]``."""
        return np.asarray(self.start[:-1] + np.asarray(plan.choices, np.intp), np.intp)

    def block(self, decision: int) -> slice:
        """Return where the options of a decision are."""
        return slice(int(self.start[decision]), int(self.start[decision + 1]))

    def plan(self, rows: Indices) -> Plan:
        """Return the plan that takes these options, one per decision."""
        return Plan(tuple(int(k) for k in rows - self.start[:-1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Decisions, and what the model costs whatever is decided."""

    decisions: tuple[Decision, ...]
    fixed_bytes: int = 0
    fixed_ms: float = 0.0
    fixed_loss: float = 0.0
    """Of what was done to the model before there was anything to decide."""

    def __post_init__(self) -> None:
        """Raise UsageError if names repeat or numbers of draws differ."""
        names = [decision.name for decision in self.decisions]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two decisions are named '{twice}', expected one")
        draws = sorted({len(v) for o in self._options for v in [o.directions] if v is not None})
        if len(draws) > 1:
            raise UsageError(f"directions have {draws[0]} and {draws[-1]} draws, expected the same")

    def loss(self, plan: Plan) -> float:
        """Return the predicted loss, interactions and the fixed part included."""
        diagonal = self.fixed_loss + math.fsum(option.loss for option in self._taken(plan))
        table = self.table
        if table.directions is None:
            return diagonal
        v = table.directions[table.rows(plan)]
        total = v.sum(axis=0)
        return diagonal + (float(total @ total) - float(np.vdot(v, v))) / 2

    def bytes(self, plan: Plan) -> int:
        """Return the size on disk, the fixed part included."""
        return self.fixed_bytes + sum(option.bytes for option in self._taken(plan))

    def ms(self, plan: Plan) -> float | None:
        """Return milliseconds, the fixed part included; None if one of the options was not measured."""
        times = [option.ms for option in self._taken(plan)]
        known = [ms for ms in times if ms is not None]
        return self.fixed_ms + math.fsum(known) if len(known) == len(times) else None

    def value(self, plan: Plan, quantity: Objective) -> float:
        """Return one of the three; infinite milliseconds where an option was not measured."""
        if quantity == "loss":
            return self.loss(plan)
        if quantity == "bytes":
            return self.bytes(plan)
        ms = self.ms(plan)
        return math.inf if ms is None else ms

    def fits(self, plan: Plan, limits: Limits) -> bool:
        """Tell whether the plan keeps every limit."""
        return (
            (limits.bytes is None or self.bytes(plan) <= limits.bytes)
            and (limits.ms is None or self.value(plan, "ms") <= limits.ms)
            and (limits.loss is None or self.loss(plan) <= limits.loss)
        )

    def labels(self, plan: Plan) -> dict[str, str]:
        """Return decision -> label of the option taken."""
        taken = self._taken(plan)
        return {d.name: o.label for d, o in zip(self.decisions, taken, strict=True)}

    def plan(self, labels: Sequence[str]) -> Plan:
        """Return the plan that takes the options of these labels, one per decision; raises UsageError."""
        choices: list[int] = []
        for decision, label in zip(self.decisions, labels, strict=True):
            found = decision.find(label)
            if found is None:
                known = ", ".join(option.label for option in decision.options)
                raise UsageError(
                    f"decision '{decision.name}' has no option '{label}', it has {known}"
                )
            choices.append(found)
        return Plan(tuple(choices))

    @functools.cached_property
    def table(self) -> Table:
        """All prices as columns."""
        sizes = [len(decision.options) for decision in self.decisions]
        options = self._options
        return Table(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp),
            np.repeat(np.arange(len(sizes)), sizes).astype(np.intp),
            np.array([o.loss for o in options], np.float64),
            np.array([o.bytes for o in options], np.float64),
            np.array([math.nan if o.ms is None else o.ms for o in options], np.float64),
            self._stacked(options),
        )

    @staticmethod
    def _stacked(options: Sequence[Option]) -> Doubles | None:
        draws = next((len(o.directions) for o in options if o.directions is not None), 0)
        if draws == 0:
            return None
        nothing = np.zeros(draws)
        rows = [nothing if o.directions is None else o.directions for o in options]
        stacked = np.asarray(np.stack(rows), np.float64)
        return np.asarray(stacked / math.sqrt(draws))

    @property
    def _options(self) -> list[Option]:
        return [option for decision in self.decisions for option in decision.options]

    def _taken(self, plan: Plan) -> list[Option]:
        if len(plan.choices) != len(self.decisions):
            raise UsageError(
                f"the plan has {len(plan.choices)} choices for {len(self.decisions)} decisions"
            )
        return [d.options[k] for d, k in zip(self.decisions, plan.choices, strict=True)]


def together(name: str, decisions: Sequence[Decision], *, shared: bool = False) -> Decision:
    """Return one decision for sites that must agree: the options whose label all of them have.

    Losses add up with the interactions among the sites, and so do milliseconds; bytes add up, unless ``shared``: then
    all sites read the same tensor and its bytes (the largest) count once. Raises UsageError if no label is common.
    """
    first = decisions[0]
    joined = [
        _joined([d.options[k] for d, k in zip(decisions, found, strict=True)], shared)
        for option in first.options
        if None not in (places := [d.find(option.label) for d in decisions])
        for found in [[k for k in places if k is not None]]
    ]
    if not joined:
        names = ", ".join(decision.name for decision in decisions)
        raise UsageError(f"'{name}': no option is common to {names}")
    return Decision(name, tuple(joined))


def _joined(options: Sequence[Option], shared: bool) -> Option:
    alone = Problem(tuple(Decision(str(k), (option,)) for k, option in enumerate(options)))
    plan = Plan((0,) * len(options))
    vectors = [option.directions for option in options if option.directions is not None]
    size = max(option.bytes for option in options) if shared else alone.bytes(plan)
    summed = np.sum(vectors, axis=0) if vectors else None
    return Option(options[0].label, alone.loss(plan), size, alone.ms(plan), summed)
