"""What a search chooses from: candidates of every site and their prices, for one model."""

import dataclasses
import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence

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
from whet.solve.allocation import Doubles, Plan, Problem
from whet.solve.executor import Executor, InProcess
from whet.solve.measuring import Measurement, Scorer, Yardstick
from whet.solve.offers import Market, make_market
from whet.solve.store import Store, fingerprint

__all__ = ["CANDIDATES", "Offered", "behind", "make_yardstick", "offered"]

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
_KEPT = 2
"""Searches that are remembered."""
_SAMPLES = 256
_DRAWS = 512
"""Directions that losses are predicted along: draws times samples."""


@dataclasses.dataclass(frozen=True)
class Offered:
    """The choice to be made at one model, and what earlier searches know of it."""

    market: Market
    problem: Problem
    tail: Pipeline
    idle: Mapping[str, str]
    store: Store


def offered(
    model: onnx_ir.Model,
    context: Context,
    target: Target,
    options: Options,
    yardstick: Yardstick,
    executor: Executor | None = None,
    origin: str = "",
) -> Offered:
    """Apply the candidates to copies of a model in the form that ``exact`` leaves behind, and price them.

    Second derivatives are computed on the ``executor``. ``origin`` stands for the model that losses are held against,
    where it is another one.
    """
    store = _store(model, context, target, options, origin)
    market, idle = make_market(model, _candidates(options.candidates, target), context, store)
    executor = executor or InProcess()
    along = _directions(model, market, context, options, store, executor)
    problem = _grounded(market.problem(along), yardstick.as_is(model))
    return Offered(market, problem, Pipeline(behind(target)), idle, store)


def make_yardstick(
    target: Target,
    options: Options,
    context: Context,
    score: Scorer | None = None,
    executor: Executor | None = None,
) -> Yardstick:
    """Return what measures models and plans; the first model is what all others are held against.

    Losses of plans are computed on the ``executor``.
    """
    return Yardstick(
        target,
        options.runtime,
        context,
        categorical=options.loss == "divergence",
        score=score,
        timed=context.prices is not None,
        executor=executor,
    )


def behind(target: Target) -> tuple[Pass | Fixpoint, ...]:
    """Return what follows the choice: products that can be one, exact passes, the runtime's own operators."""
    return (make_pass("merge-quantized-products"), exact(), *target.legalize())


def _candidates(text: str, target: Target) -> Sequence[Pass]:
    texts = (target.candidates or CANDIDATES) if text == "auto" else (text,)
    return [step for part in texts for step in parse_passes(part)]


def _store(
    model: onnx_ir.Model, context: Context, target: Target, options: Options, origin: str
) -> Store:
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
        *([origin] if origin else []),
    )
    kept = _KEPT * (1 + len(options.start))
    return Store(cache_folder() / "searches", fingerprint(model, batches, *circumstances), kept)


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


def _grounded(problem: Problem, seen: Measurement) -> Problem:
    """Add the bytes, milliseconds and loss that no decision changes: those of the model with every site as it is."""
    nothing = Plan((0,) * len(problem.decisions))
    ms = problem.ms(nothing)
    return dataclasses.replace(
        problem,
        fixed_bytes=max(0, seen.bytes - problem.bytes(nothing)),
        fixed_ms=max(0.0, seen.ms - ms) if seen.ms is not None and ms is not None else 0.0,
        fixed_loss=seen.loss,
    )
