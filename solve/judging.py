"""What a search wants: limits, what is to be small, and which of two measured plans is better."""

import dataclasses
import math
from collections.abc import Iterator

from whet.solve.allocation import Limits, Objective
from whet.solve.trials import Trial, lost

__all__ = ["Budgets", "Judge", "objective_of"]

_BEYOND = 1.5
"""Standard errors of a difference of two plans' metrics beyond which it counts."""


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Limits in numbers; None does not limit."""

    drop: float | None = None
    bytes: int | None = None
    ms: float | None = None


def objective_of(budgets: Budgets) -> Objective:
    """Return what is minimized: the loss, or with a limit on the drop, milliseconds or else bytes."""
    if budgets.drop is None:
        return "loss"
    if budgets.ms is None:
        return "ms"
    return "bytes" if budgets.bytes is None else "loss"


@dataclasses.dataclass(frozen=True)
class Judge:
    """Budgets and an objective."""

    budgets: Budgets
    objective: Objective

    @property
    def limits(self) -> Limits:
        """Return what the solver has to keep; the drop is not known to it."""
        return Limits(bytes=self.budgets.bytes, ms=self.budgets.ms)

    def fits(self, trial: Trial) -> bool:
        """Tell whether measured bytes and milliseconds keep their limits."""
        size, ms = self.budgets.bytes, self.budgets.ms
        took = trial.measured.ms
        return (size is None or trial.measured.bytes <= size) and (
            ms is None or (took is not None and took <= ms)
        )

    def keeps(self, trial: Trial) -> bool:
        """Tell whether a trial keeps every limit; the drop by its standard error, too."""
        limit = self.budgets.drop
        kept = limit is None or (trial.drop is not None and trial.drop + trial.doubt <= limit)
        return kept and self.fits(trial)

    def prefers(self, one: Trial, other: Trial) -> bool:
        """Tell whether one trial is better than another: what keeps the limits, or else comes closest to them.

        Where losses decide and there is a metric for every sample, a metric that is better by more than 1.5
        standard errors of the difference decides before them.
        """
        a, b = one.measured.scores, other.measured.scores
        both = self.keeps(one) and self.keeps(other)
        if both and self.objective == "loss" and a is not None and b is not None:
            gain, doubt = lost(a, b)
            if gain is not None and abs(gain) > _BEYOND * doubt > 0:
                return gain > 0
        return self.rank(one) < self.rank(other)

    def rank(self, trial: Trial) -> tuple[float, float]:
        """Return what is smaller for better trials: by how much limits are exceeded, then what is minimized."""
        value = {
            "loss": trial.measured.loss,
            "bytes": trial.measured.bytes,
            "ms": trial.measured.ms,
        }
        found = value[self.objective]
        return self.excess(trial), math.inf if found is None else float(found)

    def excess(self, trial: Trial) -> float:
        """Return by which parts of themselves limits are exceeded, all together; 0 for a trial that keeps them."""
        if self.keeps(trial):
            return 0.0
        budgets, measured = self.budgets, trial.measured
        dropped = None if trial.drop is None else trial.drop + trial.doubt
        pairs = (
            (budgets.bytes, measured.bytes),
            (budgets.ms, measured.ms),
            (budgets.drop, dropped),
        )
        over = [_over(limit, found) for limit, found in pairs if limit is not None]
        return max(sum(over), math.ulp(1.0))

    def broken(self, trial: Trial) -> Iterator[str]:
        """Yield the limits that a trial does not keep, with both numbers."""
        b, m = self.budgets, trial.measured
        if b.bytes is not None and m.bytes > b.bytes:
            yield f"the best that was measured has {m.bytes:,} bytes, the budget {b.bytes:,}"
        if b.ms is not None and (m.ms or math.inf) > b.ms:
            yield f"the best that was measured takes {m.ms:.3g} ms, the limit {b.ms:.3g}"
        if b.drop is not None and trial.drop is not None and trial.drop + trial.doubt > b.drop:
            yield (
                f"the metric drops by {trial.drop:.4f} with a standard error of {trial.doubt:.4f}, "
                f"the budget is {b.drop:g}"
            )


def _over(limit: float, found: float | None) -> float:
    """Return by which part of a limit it is exceeded; limits near nothing count as a thousandth."""
    return math.inf if found is None else max(0.0, found - limit) / max(abs(limit), 1e-3)
