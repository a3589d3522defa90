"""From a budget to a plan: searches at one or several starts, the best of them, and its record for the report."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir

from whet.backends.base import Target
from whet.offering import Offered, make_yardstick, offered
from whet.options import Options
from whet.passes.pipeline import Step
from whet.passes.workbench import Context
from whet.solve.apply_plan import Chosen
from whet.solve.executor import Executor, find_executor
from whet.solve.explain import Reason, explain
from whet.solve.judging import Budgets, Judge, objective_of
from whet.solve.measuring import Measurement, Scorer
from whet.solve.offers import Market
from whet.solve.pareto import Point, front
from whet.solve.search import AS_FAST, Found, Search
from whet.solve.store import fingerprint
from whet.solve.trials import Trial, Trials, lost

__all__ = ["Begun", "Searched", "Start", "search"]


@dataclasses.dataclass(frozen=True)
class Start:
    """A model that a search begins at."""

    recipe: str
    """What was applied behind the exact passes; empty for nothing."""
    model: onnx_ir.Model
    context: Context
    steps: Sequence[Step]


@dataclasses.dataclass
class Begun:
    """What was seen of one start, and what a search found from there."""

    start: Start
    seen: Measurement
    """Without a plan."""
    skipped: str = ""
    """Why nothing was searched for there."""
    offered: Offered | None = None
    found: Found | None = None

    @property
    def best(self) -> Trial | None:
        """Return the best plan."""
        return None if self.found is None else self.found.best

    def to_json(self) -> dict[str, Any]:
        """Return the record."""
        return {
            "recipe": self.start.recipe,
            "seen": _numbers(self.seen),
            "skipped": self.skipped,
            "best": None if self.best is None else _numbers(self.best.measured),
        }


@dataclasses.dataclass(frozen=True)
class Searched:
    """What a search found, as the report shows it."""

    chosen: tuple[Chosen, ...]
    found: Found
    reasons: tuple[Reason, ...]
    begun: Begun
    """Where the best plan starts."""
    starts: Sequence[Begun]

    def to_json(self) -> dict[str, Any]:
        """Return the record: what was tried, what was predicted, what was chosen and why."""
        found = self.found
        whole = [t for t in found.trials if t.why not in ("random", "near")]
        points = [_point(k, trial) for k, trial in enumerate(whole)]
        on_front = {whole[k].plan for k in front(points)}
        best = found.best
        known: dict[str, int] = {}
        assert self.begun.offered is not None
        return {
            "rank_correlation": found.correlation,
            "source": _numbers(found.source),
            "start": self.begun.start.recipe,
            "starts": [begun.to_json() for begun in self.starts],
            "missed": found.reason,
            "best": None if best is None else _trial(best, found, on_front, known),
            "trials": [_trial(t, found, on_front, known) for t in found.trials],
            "sites": [decision.name for decision in found.problem.decisions],
            "labels": list(known),
            "decisions": [dataclasses.asdict(reason) for reason in self.reasons],
            "idle_candidates": dict(self.begun.offered.idle),
        }


def search(
    starts: Sequence[Start],
    target: Target,
    options: Options,
    limits: tuple[float | None, int | None, float | None],
    score: Scorer | None,
    better: Callable[[onnx_ir.Model, Trial, Market], None],
    stamp: str | None = "",
) -> Searched:
    """Find the best mixture for models in the form that ``exact`` leaves behind; losses are against the first one.

    ``limits`` are on the drop of the metric, bytes and milliseconds; ``better`` hears of every new best trial.
    ``stamp`` stands for the metric and its data; without one, measurements are not remembered.
    """
    with find_executor(options.workers) as executor:
        return _Searches(starts, target, options, limits, score, better, stamp, executor).run()


class _Searches:
    """One search after the other, all held against the first start."""

    def __init__(
        self,
        starts: Sequence[Start],
        target: Target,
        options: Options,
        limits: tuple[float | None, int | None, float | None],
        score: Scorer | None,
        better: Callable[[onnx_ir.Model, Trial, Market], None],
        stamp: str | None,
        executor: Executor,
    ) -> None:
        self._starts = starts
        self._target = target
        self._options = options
        self._budgets = Budgets(*limits)
        self._better = better
        self._stamp = None if stamp is None else f"{options.loss} {stamp}"
        self._executor = executor
        self._yardstick = make_yardstick(target, options, starts[0].context, score, executor)
        self._end = time.monotonic() + 60 * options.search_minutes
        self._begun: list[Begun] = []
        self._best: Begun | None = None

    def run(self) -> Searched:
        """Return the best of all starts."""
        for start in self._starts:
            self._begin(start)
        best = self._best or self._begun[0]
        assert best.found is not None
        assert best.offered is not None
        found = best.found
        if found.best is None:
            return Searched((), found, (), best, self._begun)
        choices = found.best.plan.choices
        taken = zip(found.problem.decisions, choices, strict=True)
        losses = [decision.options[k].loss for decision, k in taken]
        reasons = explain(found.problem, found.best.plan)
        chosen = best.offered.market.chosen(choices, losses)
        return Searched(chosen, found, reasons, best, self._begun)

    def _begin(self, start: Start) -> None:
        """Search at one start, unless what is there already cannot win."""
        if start.recipe:
            start.context.progress(f"search: measure what {start.recipe} leaves")
        begun = Begun(start, self._yardstick.as_is(start.model))
        self._begun.append(begun)
        begun.skipped = self._hopeless(begun.seen)
        if begun.skipped:
            return
        begun.offered, begun.found = self._search(start)
        if begun.best is None:
            return
        if self._best is None or self._wins(begun.best):
            self._best = begun

    def _search(self, start: Start) -> tuple[Offered, Found]:
        first, context = self._starts[0], start.context
        origin = "" if start is first else fingerprint(first.model, ())
        found = offered(
            start.model,
            context,
            self._target,
            self._options,
            self._yardstick,
            self._executor,
            origin,
        )
        trials = Trials(
            start.model,
            found.market,
            self._yardstick,
            found.tail,
            store=found.store,
            stamp=self._stamp,
            progress=context.progress,
        )
        search = Search(
            found.problem,
            trials,
            self._budgets,
            seed=self._options.seed,
            seconds=max(0.0, self._end - time.monotonic()),
            objective=self._options.objective,
            better=lambda trial: self._publish(start, trial, found.market),
        )
        return found, search.run()

    def _publish(self, start: Start, trial: Trial, market: Market) -> None:
        if self._best is None or self._wins(trial):
            self._better(start.model, trial, market)

    def _wins(self, trial: Trial) -> bool:
        """Tell whether a trial is better than the best of earlier starts."""
        assert self._best is not None
        assert self._best.best is not None
        best = self._best.best
        *strict, plain = self._judges()
        for judge in strict:
            if judge.keeps(trial) or judge.keeps(best):
                return judge.prefers(trial, best)
        return plain.prefers(trial, best)

    def _judges(self) -> Iterator[Judge]:
        """Yield what ranks plans of several starts: those no slower than the source come first, as in one search."""
        objective = self._options.objective or objective_of(self._budgets)
        source = self._begun[0].seen.ms
        if source is not None and self._budgets.ms is None and objective != "ms":
            yield Judge(dataclasses.replace(self._budgets, ms=source * AS_FAST), objective)
        yield Judge(self._budgets, "bytes" if objective == "ms" and source is None else objective)

    def _hopeless(self, seen: Measurement) -> str:
        """Return why no plan for a start can be the best: its loss and its drop only grow with a plan."""
        if len(self._begun) == 1:
            return ""
        if time.monotonic() > self._end:
            return "no time was left"
        limit = self._budgets.drop
        drop, doubt = lost(self._begun[0].seen.scores, seen.scores)
        if limit is not None and drop is not None and drop - doubt > limit:
            return f"the metric drops by {drop:.4f} without a plan, the budget is {limit:g}"
        best = None if self._best is None else self._best.best
        *_, judge = self._judges()
        if judge.objective != "loss" or best is None or not judge.keeps(best):
            return ""
        if seen.loss < best.measured.loss:
            return ""
        return f"the loss is {seen.loss:.2e} without a plan, {best.measured.loss:.2e} with the best before"


def _point(number: int, trial: Trial) -> Point:
    m = trial.measured
    return Point(str(number), m.bytes, m.ms, -m.loss if m.scores is None else m.scores.metric)


def _trial(trial: Trial, found: Found, on_front: set[Any], known: dict[str, int]) -> dict[str, Any]:
    """Return a record of a trial; its plan as numbers of labels, which ``known`` collects, in the order of sites."""
    labels = found.problem.labels(trial.plan)
    return {
        "why": trial.why,
        "predicted": _numbers(trial.predicted),
        "measured": _numbers(trial.measured),
        "drop": trial.drop,
        "standard_error": trial.doubt,
        "on_front": trial.plan in on_front and trial.why not in ("random", "near"),
        "plan": [known.setdefault(label, len(known)) for label in labels.values()],
    }


def _numbers(measured: Any) -> dict[str, Any]:
    metric = None if measured.scores is None else measured.scores.metric
    return {"bytes": measured.bytes, "ms": measured.ms, "loss": measured.loss, "metric": metric}
