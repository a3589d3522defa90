"""One compile, step by step."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx_ir

from whet.analysis.calibration import Dataset, batch_size, read_dataset
from whet.analysis.kernel_prices import KernelPrices
from whet.artifact import Artifact
from whet.backends.gate import NeverWorse
from whet.backends.probe import find_bindings
from whet.backends.worker import Turns, Worker
from whet.comparison import record
from whet.errors import InvalidModel, UnsupportedTarget, UsageError
from whet.evaluation import Evaluation
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.metric import Metric
from whet.offering import behind
from whet.options import Data, Evaluate, read_max_ram
from whet.passes.pipeline import Pipeline, Step
from whet.passes.recipes import canonical, exact, read_recipe
from whet.passes.workbench import Context
from whet.precision import judge_precision
from whet.preparation import Prepared
from whet.printing import row_by_row
from whet.realizing import Realizer
from whet.report import Provenance
from whet.reporting import make_report
from whet.reproduction import reproduce
from whet.searching import Searched, Start, search
from whet.setting import Result, Scene, Setting
from whet.solve.apply_plan import ApplyPlan
from whet.solve.grafting import Grafter
from whet.solve.offers import Market
from whet.solve.trials import Trial

__all__ = ["Call", "Job"]

_QUICK = 5.0
"""Seconds that scoring the source may take for lossy passes to be scored one by one."""
_LARGE = 1 << 29
"""Models of more bytes are loaded one at a time: the source and its result together take twice the memory."""


@dataclasses.dataclass
class Call:
    """The arguments of one compile that are data."""

    calibration: Data | None
    labels: Data | None
    evaluate: Evaluate | None


class Job:
    """One compile: the steps in order, and what each leaves for the next."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._options = setting.options
        self._target = setting.target
        self._kernels: Mapping[str, Mapping[str, float]] = {}
        self._searched: Searched | None = None
        self._start = time.perf_counter()
        self.feeds: Mapping[str, Array] = {}
        """The inputs that results are timed on."""

    def run(self, prepared: Prepared, call: Call) -> Artifact:
        """Transform, lower, check, write; return the artifact in its temporary folder."""
        prepared = self._setting.settle(prepared)
        self._target = self._setting.target
        reasons = self._target.refuses(prepared.model)
        if reasons:
            raise UnsupportedTarget(
                f"target '{self._target.name}' cannot run it: {'; '.join(reasons)}"
            )
        data = self._read(call.calibration, prepared.model, "calibration data")
        labels = self._read(call.labels, prepared.model, "labels file")
        self._setting.turns = Turns() if prepared.cost.bytes > _LARGE else None
        self._options.progress("load the source")
        with self._setting.open_source(prepared) as before:
            bindings = self._bindings(prepared, data, before)
            self.feeds = bindings.feeds(prepared.model, 0, self._options.seed)
            expected = self._record(prepared, bindings, before)
            searches = self._searches(data)
            metric = Metric(labels, call.evaluate, batch_size(prepared.model), split=searches)
            scene = Scene(prepared, bindings, expected, before, metric)
            result, steps = self._realize(scene, data)
            report = make_report(self._setting, scene, steps, result, self._searched, self._kernels)
        report.seconds = time.perf_counter() - self._start
        report.provenance = self._provenance(prepared, call, result)
        (self._setting.folder / "report.json").write_text(row_by_row(report.to_json()))
        return Artifact(self._setting.folder, result.manifest, report)

    def _realize(self, scene: Scene, data: Dataset | None) -> tuple[Result, list[Step]]:
        """Return what came of the passes; the source's own graph where that is faster beyond doubt."""
        realizer = Realizer(self._setting, scene)
        untouched = scene.prepared.model.clone()
        model, steps = self._transform(scene, realizer, data)
        if self._target.lossy:
            steps.append(
                judge_precision(self._setting, model, scene.bindings, _held_out(data, model))
            )
            self._target = self._setting.target
        result = realizer.realize(model, steps, untouched)
        changed = any(step.coverage.changed for step in steps)
        if self._searched is None and result.slower and changed:
            _take_back(result, steps)
            result = realizer.realize(untouched, steps, untouched)
        return result, steps

    def _provenance(self, prepared: Prepared, call: Call, result: Result) -> Provenance:
        data = {"--calibration": call.calibration, "--labels": call.labels}
        if call.evaluate is not None:
            spelled = str(call.evaluate) if isinstance(call.evaluate, Evaluation) else ()
            data |= {"--evaluate": spelled}
        source = result.manifest["source"]
        command = reproduce(prepared.spelled, data, self._options, self._setting.output)
        return Provenance(
            command,
            self._options.seed,
            source["origin"],
            source["sha256"],
            result.manifest["files"],
        )

    def _bindings(self, prepared: Prepared, data: Dataset | None, before: Worker) -> Bindings:
        examples = dict(prepared.examples)
        if data is not None:
            examples = dict(data.batches(batch_size(prepared.model, default=1))[0])
        fixed = self._target.fixed_sizes(self._options.sizes)
        bindings = find_bindings(prepared.model, before, examples, fixed)
        if not bindings.choices:
            raise InvalidModel(f"the source does not run: {bindings.note}")
        if bindings.note:
            self._setting.notes.append(
                f"fewer sizes than wanted could be executed: {bindings.note}"
            )
        return bindings

    def _record(self, prepared: Prepared, bindings: Bindings, before: Worker) -> list[list[Array]]:
        """Return what the source computes; a large one is not needed again for a while and goes."""
        try:
            found = record(prepared.model, bindings, before, self._options.seed)
        except CannotRun as error:
            raise InvalidModel(f"the source does not run: {error}") from error
        if self._setting.turns is not None:
            self._setting.turns.end()
        return found

    def _read(self, data: Data | None, model: onnx_ir.Model, what: str) -> Dataset | None:
        return None if data is None else read_dataset(data, model, what, self._options.progress)

    def _context(self, model: onnx_ir.Model, bindings: Bindings, data: Dataset | None) -> Context:
        size = batch_size(model)
        fit, judge = (None, None) if data is None else data.held_out()
        return Context(
            bindings=bindings,
            calibration=() if fit is None else fit.batches(size),
            held_out=() if judge is None else judge.batches(size),
            max_ram=read_max_ram(self._options.max_ram),
            seed=self._options.seed,
            threads=self._options.threads,
            device=self._options.place,
            prove=self._options.prove,
            reproducers=self._setting.scratch / "reproducers",
            progress=self._options.progress,
            target=self._target.name,
            spill=self._setting.scratch / "weights",
        )

    def _scorer(self, scene: Scene) -> Callable[[onnx_ir.Model], float] | None:
        """Return what scores a model between passes; None where there is no metric or it takes long."""
        if not scene.metric or self._setting.turns is not None or self._target.idle():
            return None
        self._options.progress("evaluate the source")
        scene.metric.of_source(scene.before)
        return partial(self._score, scene.metric) if scene.metric.seconds < _QUICK else None

    def _score(self, metric: Metric, model: onnx_ir.Model) -> float:
        """Return the metric of a model that is still on its way."""
        with tempfile.TemporaryDirectory(dir=self._setting.scratch) as folder:
            self._target.lower(model, Path(folder))
            path = Path(folder) / "model.onnx"
            with Worker(path, self._options.runtime, self._target.spelled) as worker:
                return metric.of(worker).metric

    def _transform(
        self, scene: Scene, realizer: Realizer, data: Dataset | None
    ) -> tuple[onnx_ir.Model, list[Step]]:
        model, bindings = scene.prepared.model, scene.bindings
        context = self._context(model, bindings, data)
        if self._searches(data):
            with self._priced(context):
                return self._search(scene, realizer, context)
        context.score = self._scorer(scene)
        pipeline = self._setting.recipe.pipeline(self._target)
        if not self._options.measure:
            return pipeline.run(model, context)
        gate = NeverWorse(
            self._target,
            self._options.runtime,
            bindings,
            self._setting.scratch,
            self._setting.turns,
            timed=self._options.timed,
        )
        with self._priced(context):
            return pipeline.run(model, context, gate)

    @contextlib.contextmanager
    def _priced(self, context: Context) -> Generator[None]:
        """Let passes know what kernels take, where that is measured."""
        runtime = self._target.priced
        if not self._options.timed or not runtime:
            yield
            return
        version = self._target.versions()[runtime]
        with KernelPrices(self._options.runtime, version, target=runtime) as prices:
            context.prices = prices
            yield
        self._kernels = prices.used

    def _searches(self, data: Dataset | None) -> bool:
        """Tell whether a mixture is searched for: with a budget, real inputs, and no recipe that says what to do."""
        budget = bool(self._options.budget) or self._options.minimize != "auto"
        wanted = budget and self._setting.recipe.name == "auto" and data is not None
        if self._options.start and not wanted:
            raise UsageError(
                "a start is where a search begins, and nothing is searched for: "
                "that takes a budget, calibration data and the recipe 'auto'"
            )
        if wanted and (reason := self._target.idle()):
            raise UsageError(
                f"a search runs what it finds, and this is not run here: {reason}; say what to do with a recipe"
            )
        return wanted

    def _search(
        self, scene: Scene, realizer: Realizer, context: Context
    ) -> tuple[onnx_ir.Model, list[Step]]:
        """Rewrite exactly, find the best plan under the budget, put it in place with proof."""
        limits = self._options.budget.limits(scene.prepared.cost.bytes)
        self._searched = search(
            self._starts(scene.prepared.model, context),
            self._target,
            self._options,
            limits,
            scene.metric.search if scene.metric else None,
            better=partial(_publish, realizer),
            stamp=scene.metric.stamp,
        )
        start = self._searched.begun.start
        tail = Pipeline((ApplyPlan(chosen=self._searched.chosen), *behind(self._target)))
        model, more = tail.run(start.model, start.context)
        return model, [*start.steps, *more]

    def _starts(self, model: onnx_ir.Model, context: Context) -> list[Start]:
        """Return the exact rewrites of the source, and what every recipe to begin with makes of them."""
        model, steps = Pipeline((canonical(), exact())).run(model, context)
        starts = [Start("", model, context, steps)]
        for text in self._options.start:
            recipe = read_recipe(text, allow_noop=self._options.allow_noop)
            mine = dataclasses.replace(context, lineage={}, original=None)
            pipeline = Pipeline((*recipe.stages, exact()), recipe.asked_for)
            made, more = pipeline.run(model.clone(), mine)
            if any(step.coverage.changed for step in more):
                starts.append(Start(text, made, mine, [*steps, *more]))
            else:
                self._setting.notes.append(f"'{text}' changes nothing, so no search begins there")
        return starts


def _publish(realizer: Realizer, model: onnx_ir.Model, trial: Trial, market: Market) -> None:
    """Leave the best plan so far where the result will be."""
    chosen = [chosen.piece for chosen in market.chosen(trial.plan.choices)]
    realizer.publish(Grafter(model).replace(chosen), trial)


def _held_out(data: Dataset | None, model: onnx_ir.Model) -> Sequence[Mapping[str, Array]]:
    return () if data is None else data.held_out()[1].batches(batch_size(model))


def _take_back(result: Result, steps: list[Step]) -> None:
    """Record that the whole result was slower than the source, so that the source's own graph is shipped."""
    before, after = (cost.time for cost in result.costs)
    reason = f"the whole result was slower, measured twice: {before} before, {after} after"
    for step in steps:
        if step.coverage.changed and not step.reverted:
            step.reverted = reason
