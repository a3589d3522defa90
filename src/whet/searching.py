"""From a budget to a plan: candidates of every site, their prices, the search, and its record for the report."""

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir

from whet import __version__
from whet.analysis.kernel_prices import cache_folder
from whet.backends.base import Target
from whet.ir.values import Array, dimensions
from whet.options import Options
from whet.passes.base import Pass
from whet.passes.extensions import source_digest
from whet.passes.pipeline import Fixpoint, Pipeline
from whet.passes.recipes import exact
from whet.passes.registry import make_pass, parse_passes
from whet.passes.workbench import Context
from whet.solve.allocation import Doubles, Problem
from whet.solve.apply_plan import Chosen
from whet.solve.executor import Executor, InProcess, find_executor
from whet.solve.explain import Reason, explain
from whet.solve.judging import Budgets
from whet.solve.measuring import Scorer, Yardstick
from whet.solve.offers import Market, make_market
from whet.solve.pareto import Point, front
from whet.solve.search import Found, Search
from whet.solve.store import Store, fingerprint
from whet.solve.trials import Trial, Trials

__all__ = ["CANDIDATES", "Offered", "Searched", "behind", "offered", "search"]

Feeds = Mapping[str, Array]
CANDIDATES = (
    "quantize-static{prefer=size}",
    "quantize-static{prefer=size,weight_bits=4,ends=same}",
    "quantize-static{prefer=size,weight_bits=3,ends=same}",
    "quantize-static{prefer=size,weight_bits=2,ends=same}",
    "quantize-dynamic",
    "quantize-weights{bits=8,prefer=size}",
    "quantize-weights{bits=4,prefer=size}",
    "quantize-codebooks{bits=4,minimum=256}",
    "quantize-codebooks{bits=3,minimum=256}",
    "quantize-codebooks{bits=2,minimum=256}",
)
"""What is tried at every site, unless the user says otherwise."""
_SAMPLES = 256
_DRAWS = 512
"""Directions that losses are predicted along: draws times samples."""


@dataclasses.dataclass(frozen=True)
class Searched:
    """What a search found, as the report shows it."""

    chosen: tuple[Chosen, ...]
    found: Found
    reasons: tuple[Reason, ...]
    idle: Mapping[str, str]
    """Candidates that offered nothing -> why."""

    def to_json(self) -> dict[str, Any]:
        """Return the record: what was tried, what was predicted, what was chosen and why."""
        found = self.found
        whole = [t for t in found.trials if t.why not in ("random", "near")]
        points = [_point(k, trial) for k, trial in enumerate(whole)]
        on_front = {whole[k].plan for k in front(points)}
        best = found.best
        known: dict[str, int] = {}
        return {
            "rank_correlation": found.correlation,
            "source": _numbers(found.source),
            "missed": found.reason,
            "best": None if best is None else _trial(best, found, on_front, known),
            "trials": [_trial(t, found, on_front, known) for t in found.trials],
            "sites": [decision.name for decision in found.problem.decisions],
            "labels": list(known),
            "decisions": [dataclasses.asdict(reason) for reason in self.reasons],
            "idle_candidates": dict(self.idle),
        }


@dataclasses.dataclass(frozen=True)
class Offered:
    """What a search starts from: candidates, their prices, and what measures plans."""

    market: Market
    problem: Problem
    yardstick: Yardstick
    tail: Pipeline
    idle: Mapping[str, str]
    store: Store


def offered(
    model: onnx_ir.Model,
    context: Context,
    target: Target,
    options: Options,
    score: Scorer | None,
    executor: Executor | None = None,
) -> Offered:
    """Apply the candidates to copies of a model in the form that ``exact`` leaves behind, and price them.

    Second derivatives, and losses of plans, are computed on the ``executor``.
    """
    executor = executor or InProcess()
    store = _store(model, context, target, options)
    market, idle = make_market(model, _candidates(options.candidates, target), context, store)
    along = _directions(model, market, context, options, store, executor)
    yardstick = Yardstick(
        target,
        options.runtime,
        context,
        categorical=options.loss == "divergence",
        score=score,
        timed=context.prices is not None,
        executor=executor,
    )
    problem = market.problem(along, *_fixed(market, yardstick, model))
    return Offered(market, problem, yardstick, Pipeline(behind(target)), idle, store)


def search(
    model: onnx_ir.Model,
    context: Context,
    target: Target,
    options: Options,
    limits: tuple[float | None, int | None, float | None],
    score: Scorer | None,
    better: Callable[[onnx_ir.Model, Trial, Market], None],
    stamp: str | None = "",
) -> Searched:
    """Find the best mixture for a model in the form that ``exact`` leaves behind.

    ``limits`` are on the drop of the metric, bytes and milliseconds; ``better`` hears of every new best trial.
    ``stamp`` stands for the metric and its data; without one, measurements are not remembered.
    """
    with find_executor(options.workers) as executor:
        start = offered(model, context, target, options, score, executor)
        market = start.market
        trials = Trials(
            model,
            market,
            start.yardstick,
            start.tail,
            store=start.store,
            stamp=None if stamp is None else f"{options.loss} {stamp}",
            progress=context.progress,
        )
        found = Search(
            start.problem,
            trials,
            Budgets(*limits),
            seed=options.seed,
            seconds=60 * options.search_minutes,
            objective=options.objective,
            better=lambda trial: better(model, trial, market),
        ).run()
    if found.best is None:
        return Searched((), found, (), start.idle)
    choices = found.best.plan.choices
    taken = zip(found.problem.decisions, choices, strict=True)
    losses = [decision.options[k].loss for decision, k in taken]
    reasons = explain(found.problem, found.best.plan)
    return Searched(market.chosen(choices, losses), found, reasons, start.idle)


def behind(target: Target) -> tuple[Pass | Fixpoint, ...]:
    """Return what follows the choice: products that can be one, exact passes, the runtime's own operators."""
    return (make_pass("merge-quantized-products"), exact(), *target.legalize())


def _candidates(text: str, target: Target) -> Sequence[Pass]:
    texts = (target.candidates or CANDIDATES) if text == "auto" else (text,)
    return [step for part in texts for step in parse_passes(part)]


def _store(model: onnx_ir.Model, context: Context, target: Target, options: Options) -> Store:
    """Open what an earlier, interrupted search for this model, data and machine has left."""
    batches = itertools.chain(context.calibration, context.held_out)
    circumstances = (
        __version__,
        target.versions(),
        context.device.isa,
        options.runtime,
        options.seed,
        dict(context.bindings.choices[0]) if context.bindings.choices else {},
        context.prices is not None,
        tuple(source_digest(step) for step in _candidates(options.candidates, target)),
    )
    return Store(cache_folder() / "searches", fingerprint(model, batches, *circumstances))


def _directions(
    model: onnx_ir.Model,
    market: Market,
    context: Context,
    options: Options,
    store: Store,
    executor: Executor,
) -> Doubles | None:
    """Return directions ``[pieces, draws]``; None without data or torch: then errors of outputs are the prices."""
    samples = list(itertools.islice(_samples(model, context), _SAMPLES))
    if not samples or not market.pieces or importlib.util.find_spec("torch") is None:
        return None
    from whet.analysis.curvature.losses import OwnDistribution, OwnValues
    from whet.solve.directions import directions

    key = (options.loss, options.candidates)
    known = store.directions(key)
    if known is not None and len(known) == len(market.pieces):
        return known
    context.progress("search: second derivatives")
    loss = OwnDistribution() if options.loss == "divergence" else OwnValues()
    found = directions(
        model,
        market.pieces,
        samples,
        loss,
        draws=max(1, _DRAWS // len(samples)),
        seed=options.seed,
        threads=options.threads,
        executor=executor,
    )
    store.keep_directions(key, found)
    return found


def _samples(model: onnx_ir.Model, context: Context) -> Iterator[Feeds]:
    """Yield single samples, those held out first; whole batches where the model fixes their size."""
    inputs = [v for v in model.graph.inputs if v.const_value is None]
    fixed = any(isinstance((dimensions(v) or (None,))[0], int) for v in inputs)
    for batch in itertools.chain(context.held_out, context.calibration):
        count = min((len(a) for a in batch.values() if a.ndim), default=0)
        if fixed or count <= 1:
            yield batch
            continue
        for k in range(count):
            yield {name: a[k : k + 1] if a.ndim else a for name, a in batch.items()}


def _fixed(market: Market, yardstick: Yardstick, model: onnx_ir.Model) -> tuple[int, float]:
    """Return bytes and milliseconds that no decision changes."""
    source = yardstick.source(model)
    kept = [group.offers[0] for group in market.groups]
    size = max(0, source.bytes - sum(offer.bytes for offer in kept))
    ms = 0.0 if source.ms is None else source.ms - sum(offer.ms or 0.0 for offer in kept)
    return size, max(0.0, ms)


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
