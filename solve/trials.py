"""Plans that were measured: each once, also across searches that a store remembers."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir

from whet.passes.pipeline import Pipeline
from whet.solve.allocation import Plan, Problem
from whet.solve.apply_plan import Chosen
from whet.solve.measuring import Measurement, Scores, Yardstick
from whet.solve.offers import Market

if TYPE_CHECKING:
    from whet.solve.store import Store

__all__ = ["Trial", "Trials", "lost"]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan, what was predicted of it and what was measured."""

    plan: Plan
    why: str
    """``random``, ``near`` (only their losses are measured), ``solved`` or ``bred``."""
    predicted: Measurement
    measured: Measurement
    drop: float | None
    """Of the metric, on the samples that the search may see."""
    doubt: float = 0.0
    """Standard error of the drop."""
    seconds: float = 0.0


class Trials:
    """Measures plans of one market for one model."""

    def __init__(
        self,
        model: onnx_ir.Model,
        market: Market,
        yardstick: Yardstick,
        tail: Pipeline,
        *,
        store: "Store | None" = None,
        stamp: str | None = "",
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """Measure on ``yardstick``, with ``tail`` behind the plan.

        What ``store`` knows of plans is not measured again; ``stamp`` stands for the metric, None for one that
        nothing stands for.
        """
        self.market = market
        self.progress = progress
        progress("search: measure the source")
        self.source = yardstick.source(model)
        self._model = model
        self._yardstick = yardstick
        self._tail = tail
        self._store = None if stamp is None else store
        self._stamp = stamp
        self._known: dict[tuple[Plan, bool], Trial] = {}

    def __iter__(self) -> Iterator[Trial]:
        """Yield all trials in the order in which they were made."""
        return iter(self._known.values())

    def __contains__(self, plan: Plan) -> bool:
        """Tell whether the loss of a plan was measured."""
        return (plan, False) in self._known

    def whole(self, problem: Problem, plan: Plan, why: str) -> Trial:
        """Return everything about a plan; predictions are those of ``problem`` when it was first asked for."""
        known = self._known.get((plan, True))
        if known is not None:
            return known
        count = sum(1 for _, whole in self._known if whole)
        self.progress(f"search: measure plan {count + 1}")
        start = time.monotonic()
        key = self._key(problem, plan, whole=True)
        found = None if self._store is None else self._store.measurement(key)
        if found is None:
            chosen = self.market.chosen(plan.choices)
            found = self._yardstick.whole(self._model, chosen, self._tail)
            if self._store is not None:
                self._store.keep_measurement(key, found)
        return self._record(problem, plan, why, found, start, whole=True)

    def losses(
        self, problem: Problem, plans: Sequence[Plan], why: str, what: str = ""
    ) -> list[Trial]:
        """Return bytes and losses of plans; what is not known is measured on the executor, one after the other."""
        start = time.monotonic()
        missing: list[Plan] = []
        for plan in dict.fromkeys(plans):
            found = None
            if plan not in self and self._store is not None:
                found = self._store.measurement(self._key(problem, plan, whole=False))
            if found is not None:
                self._record(problem, plan, why, found, start)
            elif plan not in self:
                missing.append(plan)
        chosen = (self._announced(plan, k, missing, what) for k, plan in enumerate(missing))
        measured = self._yardstick.losses(self._model, chosen)
        for plan, found in zip(missing, measured, strict=True):
            if self._store is not None:
                self._store.keep_measurement(self._key(problem, plan, whole=False), found)
            self._record(problem, plan, why, found, start)
            start = time.monotonic()
        return [self._known[plan, False] for plan in plans]

    def _announced(
        self, plan: Plan, number: int, plans: Sequence[Plan], what: str
    ) -> tuple[Chosen, ...]:
        if what:
            self.progress(f"search: {what} {number + 1} of {len(plans)}")
        return self.market.chosen(plan.choices)

    def _key(self, problem: Problem, plan: Plan, *, whole: bool) -> object:
        return tuple(problem.labels(plan).values()), whole, self._stamp

    def _record(
        self,
        problem: Problem,
        plan: Plan,
        why: str,
        found: Measurement,
        start: float,
        *,
        whole: bool = False,
    ) -> Trial:
        predicted = Measurement(problem.bytes(plan), problem.loss(plan), problem.ms(plan))
        drop, doubt = lost(self.source.scores, found.scores)
        seconds = time.monotonic() - start
        trial = Trial(plan, why, predicted, found, drop, doubt, seconds)
        self._known[plan, whole] = trial
        return trial


def lost(before: Scores | None, after: Scores | None) -> tuple[float | None, float]:
    """Return the drop of the metric and its standard error, which is 0 for what is no mean over samples."""
    if before is None or after is None:
        return None, 0.0
    doubt = 0.0
    if before.samples is not None and after.samples is not None:
        difference = before.samples - after.samples
        doubt = float(difference.std(ddof=1) / math.sqrt(len(difference)))
    return before.metric - after.metric, doubt
