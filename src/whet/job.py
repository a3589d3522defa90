"""One compile, step by step."""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir

from whet.analysis.calibration import Dataset, batch_size, read_dataset
from whet.analysis.kernel_prices import KernelPrices
from whet.analysis.weight_histograms import find_histogram
from whet.artifact import Artifact, replace_folder
from whet.backends.base import RuntimeOptions, Target
from whet.backends.gate import NeverWorse
from whet.backends.measure import Timing, compare_speed, slower
from whet.backends.onnxruntime import runtime_fusions
from whet.backends.probe import find_bindings
from whet.backends.worker import Turns, Worker
from whet.comparison import check_agreement, hold_against, output_limit, record
from whet.drawing import graph_record
from whet.errors import BrokenPass, InvalidModel, UnsupportedTarget
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.sites import find_enclosed
from whet.ir.values import Array, weight_count
from whet.layers import list_layers
from whet.manifest import versions, write_manifest
from whet.metric import Metric, interval
from whet.options import Data, Evaluate, Options, read_max_ram
from whet.passes.pipeline import Pipeline, Step
from whet.passes.recipes import Recipe, canonical, exact
from whet.passes.workbench import Context
from whet.preparation import Prepared
from whet.printing import row_by_row, to_plain
from whet.profiling import profile
from whet.report import SCHEMA, Agreement, Cost, Limits, Profile, Provenance, Report
from whet.reproduction import reproduce
from whet.searching import Searched, behind, search
from whet.solve.apply_plan import ApplyPlan
from whet.solve.grafting import Grafter
from whet.solve.measuring import Scores
from whet.solve.offers import Market
from whet.solve.trials import Trial

__all__ = ["Call", "Job"]

_QUICK = 5.0
"""Seconds that scoring the source may take for lossy passes to be scored one by one."""
_LARGE = 1 << 29
"""Models of more bytes are loaded one at a time: the source and its result together take twice the memory."""

_PROFILED = 100.0
"""Milliseconds that a run of the source may take for operators to be profiled: thirteen runs of both."""
_SHOWN = 8
"""Layers whose weights are shown."""


@dataclasses.dataclass
class Call:
    """The arguments of one compile that are data."""

    calibration: Data | None
    labels: Data | None
    evaluate: Evaluate | None


@dataclasses.dataclass
class _Scene:
    """What a result is held against."""

    prepared: Prepared
    bindings: Bindings
    expected: list[list[Array]]
    before: Worker
    metric: Metric


@dataclasses.dataclass
class _Result:
    """What was seen of a lowered model."""

    manifest: dict[str, Any]
    agreements: list[Agreement]
    costs: tuple[Cost, Cost]
    metric: tuple[Scores, Scores] | None
    slower: bool
    model: onnx_ir.Model
    source: onnx_ir.Model
    """As it was before any pass."""


class Job:
    """One compile: the steps in order, and what each leaves for the next."""

    def __init__(
        self,
        options: Options,
        target: Target,
        recipe: Recipe,
        scratch: Path,
        output: Path | None = None,
    ) -> None:
        self._output = output
        self._options = options
        self._target = target
        self._recipe = recipe
        self._scratch = scratch
        self._folder = scratch / "artifact"
        self._notes: list[str] = []
        self._kernels: Mapping[str, Mapping[str, float]] = {}
        self._searched: Searched | None = None
        self._turns: Turns | None = None
        """Who has a model loaded, where only one may."""
        self._start = time.perf_counter()

    def run(self, prepared: Prepared, call: Call) -> Artifact:
        """Transform, lower, check, write; return the artifact in its temporary folder."""
        reasons = self._target.refuses(prepared.model)
        if reasons:
            raise UnsupportedTarget(
                f"target '{self._target.name}' cannot run it: {'; '.join(reasons)}"
            )
        data = self._read(call.calibration, prepared.model, "calibration data")
        labels = self._read(call.labels, prepared.model, "labels file")
        self._turns = Turns() if prepared.cost.bytes > _LARGE else None
        self._options.progress("load the source")
        with self._open_source(prepared) as before:
            bindings = self._bindings(prepared, data, before)
            expected = self._record(prepared, bindings, before)
            searches = self._searches(data)
            batch = batch_size(prepared.model)
            metric = Metric(labels, call.evaluate, batch, split=searches)
            scene = _Scene(prepared, bindings, expected, before, metric)
            untouched = prepared.model.clone()
            model, steps = self._transform(scene, data)
            result = self._realize(scene, model, steps, untouched)
            if (
                self._searched is None
                and result.slower
                and any(step.coverage.changed for step in steps)
            ):
                self._take_back(result, steps)
                result = self._realize(scene, untouched, steps, untouched)
            report = self._report(scene, steps, result)
        report.limits = self._limits(report)
        report.provenance = self._provenance(prepared, call, result)
        (self._folder / "report.json").write_text(row_by_row(report.to_json()))
        return Artifact(self._folder, result.manifest, report)

    def _realize(
        self, scene: "_Scene", model: onnx_ir.Model, steps: list[Step], source: onnx_ir.Model
    ) -> "_Result":
        """Lower a model, and hold what comes out against the source in a fresh process."""
        files = self._lower(model)
        manifest = write_manifest(
            self._folder,
            files,
            model,
            scene.prepared,
            self._options,
            self._recipe,
            self._target,
        )
        self._options.progress("check in a fresh process")
        with self._open_result() as after:
            agreements = self._compare(scene, model, steps, after)
            times, worse = self._measure(model, scene, after)
            metric = None
            if scene.metric:
                metric = scene.metric.of_source(scene.before), scene.metric.of(after)
            costs = self._costs(scene, model, files, times, after)
        return _Result(manifest, agreements, costs, metric, worse, model, source)

    def _take_back(self, result: "_Result", steps: list[Step]) -> None:
        """Record that the whole result was slower than the source, so that the source's own graph is shipped."""
        before, after = (cost.time for cost in result.costs)
        reason = f"the whole result was slower, measured twice: {before} before, {after} after"
        for step in steps:
            if step.coverage.changed and not step.reverted:
                step.reverted = reason

    def _report(self, scene: "_Scene", steps: list[Step], result: "_Result") -> Report:
        prepared, model = scene.prepared, result.model
        search = None if self._searched is None else self._searched.to_json()
        report = Report(
            origin=prepared.origin,
            target=self._target.name,
            recipe=str(self._recipe),
            steps=steps,
            before=result.costs[0],
            after=result.costs[1],
            agreements=result.agreements,
            fusions=self._fusions(),
            notes=self._notes,
            versions=versions(self._target),
            metric=None if result.metric is None else _metrics(result.metric),
            interval=None
            if result.metric is None
            else interval(*result.metric, self._options.seed),
            search=search,
            kernels=self._kernels,
            enclosed=find_enclosed(prepared.model),
            graph=graph_record(model),
            profile=self._profile(scene, model, result.costs[0].time),
            seconds=time.perf_counter() - self._start,
        )
        report.layers = list_layers(model, steps, report.advice, search)
        # All at once, the weights of a large model would count as memory of the compile.
        shown = report.layers[: 0 if self._turns is not None else _SHOWN]
        sites = [layer.site for layer in shown if layer.error is not None]
        spread = (find_histogram(result.source, model, site) for site in sites)
        report.histograms = [found for found in spread if found is not None]
        return report

    def _profile(
        self, scene: "_Scene", model: onnx_ir.Model, time: Timing | None
    ) -> Profile | None:
        """Profile source and result where that takes no time to speak of."""
        short = time is not None and time.median < _PROFILED
        if not short or self._turns is not None or self._target.name != "onnxruntime":
            return None
        self._options.progress("profile the operators")
        feeds = scene.bindings.feeds(model, 0, self._options.seed)
        paths = (scene.prepared.source, self._folder / "model.onnx")
        try:
            return profile(paths, feeds, self._options.runtime, scene.bindings.choices[0])
        except CannotRun as error:
            self._notes.append(f"the operators could not be profiled: {error}")
            return None

    def _limits(self, report: Report) -> Limits:
        limits = self._options.budget.limits(report.before.bytes)
        return Limits(*limits, missed=tuple(self.missed(report)))

    def _provenance(self, prepared: Prepared, call: Call, result: "_Result") -> Provenance:
        data = {"--calibration": call.calibration, "--labels": call.labels}
        data |= {} if call.evaluate is None else {"--evaluate": ()}
        source = result.manifest["source"]
        command = reproduce(prepared.spelled, data, self._options, self._output)
        return Provenance(
            command,
            self._options.seed,
            source["origin"],
            source["sha256"],
            result.manifest["files"],
        )

    def missed(self, report: Report) -> list[str]:
        """Return which limits of the budget the measured result breaks."""
        drop, size, latency = self._options.budget.limits(report.before.bytes)
        found: list[str] = []
        if size is not None and report.after.bytes > size:
            found.append(f"size is {report.after.bytes:,} bytes, the budget {size:,}")
        time_after = report.after.time
        if latency is not None and time_after is not None and time_after.median > latency:
            found.append(f"latency is {time_after.median:.3g} ms, the budget {latency:g}")
        if drop is not None and report.metric is not None:
            lost = report.metric[0] - report.metric[1]
            if lost > drop:
                found.append(f"the metric drops by {lost:.4f}, the budget is {drop:g}")
        return found

    def _open(self, path: Path, target: str) -> Worker:
        return Worker(path, self._options.runtime, target, self._turns)

    def _open_source(self, prepared: Prepared) -> Worker:
        try:
            return self._open(prepared.source, "onnxruntime")
        except CannotRun as error:
            raise InvalidModel(f"ONNX Runtime does not load the source: {error}") from error

    def _open_result(self) -> Worker:
        try:
            return self._open(self._folder, self._target.name)
        except CannotRun as error:
            raise BrokenPass(
                f"{self._target.name} does not load the result: {error} (find it: whet bisect)"
            ) from error

    def _bindings(self, prepared: Prepared, data: Dataset | None, before: Worker) -> Bindings:
        examples = dict(prepared.examples)
        if data is not None:
            examples = dict(data.batches(batch_size(prepared.model, default=1))[0])
        bindings = find_bindings(prepared.model, before, examples, self._options.sizes)
        if not bindings.choices:
            raise InvalidModel(f"the source does not run: {bindings.note}")
        if bindings.note:
            self._notes.append(f"fewer sizes than wanted could be executed: {bindings.note}")
        return bindings

    def _record(self, prepared: Prepared, bindings: Bindings, before: Worker) -> list[list[Array]]:
        """Return what the source computes; a large one is not needed again for a while and goes."""
        try:
            found = record(prepared.model, bindings, before, self._options.seed)
        except CannotRun as error:
            raise InvalidModel(f"the source does not run: {error}") from error
        if self._turns is not None:
            self._turns.end()
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
            prove=self._options.prove,
            reproducers=self._scratch / "reproducers",
            progress=self._options.progress,
            target=self._target.name,
            spill=self._scratch / "weights",
        )

    def _scorer(self, scene: "_Scene") -> Callable[[onnx_ir.Model], float] | None:
        """Return what scores a model between passes; None where there is no metric or it takes long."""
        if not scene.metric or self._turns is not None:
            return None
        self._options.progress("evaluate the source")
        scene.metric.of_source(scene.before)
        return partial(self._score, scene.metric) if scene.metric.seconds < _QUICK else None

    def _score(self, metric: Metric, model: onnx_ir.Model) -> float:
        """Return the metric of a model that is still on its way."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            self._target.lower(model, Path(folder))
            path = Path(folder) / "model.onnx"
            with Worker(path, self._options.runtime, self._target.name) as worker:
                return metric.of(worker).metric

    def _transform(self, scene: "_Scene", data: Dataset | None) -> tuple[onnx_ir.Model, list[Step]]:
        model, bindings = scene.prepared.model, scene.bindings
        context = self._context(model, bindings, data)
        if self._searches(data):
            with self._priced(context):
                return self._search(scene, context)
        context.score = self._scorer(scene)
        pipeline = self._recipe.pipeline(self._target)
        if not self._options.measure:
            return pipeline.run(model, context)
        gate = NeverWorse(self._target, self._options.runtime, bindings, self._scratch, self._turns)
        with self._priced(context):
            return pipeline.run(model, context, gate)

    @contextlib.contextmanager
    def _priced(self, context: Context) -> Iterator[None]:
        """Let passes know what kernels take, where that is measured."""
        if not self._options.measure or self._target.name != "onnxruntime":
            yield
            return
        version = self._target.versions()["onnxruntime"]
        with KernelPrices(self._options.runtime, version) as prices:
            context.prices = prices
            yield
        self._kernels = prices.used

    def _searches(self, data: Dataset | None) -> bool:
        """Tell whether a mixture is searched for: with a budget, real inputs, and no recipe that says what to do."""
        budget = bool(self._options.budget) or self._options.minimize != "auto"
        return budget and self._recipe.name == "auto" and data is not None

    def _search(self, scene: "_Scene", context: Context) -> tuple[onnx_ir.Model, list[Step]]:
        """Rewrite exactly, find the best plan under the budget, put it in place with proof."""
        model, steps = Pipeline((canonical(), exact())).run(scene.prepared.model, context)
        limits = self._options.budget.limits(scene.prepared.cost.bytes)
        self._searched = search(
            model,
            context,
            self._target,
            self._options,
            limits,
            scene.metric.search if scene.metric else None,
            better=partial(self._publish, scene),
            stamp=scene.metric.stamp,
        )
        tail = Pipeline((ApplyPlan(chosen=self._searched.chosen), *behind(self._target)))
        model, more = tail.run(model, context)
        return model, [*steps, *more]

    def _publish(self, scene: "_Scene", model: onnx_ir.Model, trial: Trial, market: Market) -> None:
        """Leave the best artifact so far where the result will be; an interrupted search leaves it there."""
        if self._output is None:
            return
        self._options.progress("search: write the best so far")
        made = Grafter(model).replace([c.piece for c in market.chosen(trial.plan.choices)])
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            folder = Path(name) / "artifact"
            folder.mkdir()
            files = self._target.lower(made, folder)
            write_manifest(
                folder, files, made, scene.prepared, self._options, self._recipe, self._target
            )
            record = {
                "schema": SCHEMA,
                "interrupted": True,
                "measured": dataclasses.asdict(trial.measured),
                "drop": trial.drop,
            }
            (folder / "report.json").write_text(row_by_row(to_plain(record)))
            replace_folder(folder, self._output)

    def _lower(self, model: onnx_ir.Model) -> list[str]:
        self._options.progress(f"lower to {self._target.name}")
        if self._folder.exists():
            self._clear()
        self._folder.mkdir()
        files = self._target.lower(model, self._folder)
        shutil.rmtree(self._scratch / "weights", ignore_errors=True)
        reproducers = self._scratch / "reproducers"
        if reproducers.is_dir():
            reproducers.rename(self._folder / "reproducers")
        return files

    def _clear(self) -> None:
        """Remove an earlier result; what its proofs refused stays on record."""
        reproducers = self._folder / "reproducers"
        if reproducers.is_dir():
            reproducers.rename(self._scratch / "reproducers")
        shutil.rmtree(self._folder)

    def _compare(
        self, scene: "_Scene", model: onnx_ir.Model, steps: list[Step], after: Worker
    ) -> list[Agreement]:
        try:
            new = record(model, scene.bindings, after, self._options.seed)
        except CannotRun as error:
            raise BrokenPass(f"the result does not run, although it loads: {error}") from error
        limit = output_limit(model)
        found = hold_against(scene.expected, new, scene.bindings, scene.before.outputs, limit)
        runtime = self._options.runtime
        plain = RuntimeOptions(runtime.threads, "none", runtime.config)
        note = check_agreement(
            found,
            steps,
            model,
            scene.bindings,
            scene.before,
            lambda: Worker(scene.prepared.source, plain, turns=self._turns),
        )
        self._notes += [note] if note else []
        return found

    def _measure(
        self, model: onnx_ir.Model, scene: "_Scene", after: Worker
    ) -> tuple[list[Timing] | None, bool]:
        """Return the times of source and result, and whether the result is slower beyond doubt."""
        if not self._options.measure:
            self._notes.append("nothing was timed (measuring is switched off)")
            return None, False
        self._options.progress("measure before and after")
        feeds = scene.bindings.feeds(model, 0, self._options.seed)
        workers = [scene.before, after]
        times = compare_speed(workers, [feeds, feeds], together=self._turns is None)
        if slower(times[0], times[1]):
            times = compare_speed(workers, [feeds, feeds], together=self._turns is None)
        return times, slower(times[0], times[1])

    def _costs(
        self,
        scene: "_Scene",
        model: onnx_ir.Model,
        files: list[str],
        times: list[Timing] | None,
        after: Worker,
    ) -> tuple[Cost, Cost]:
        size = sum((self._folder / name).stat().st_size for name in files)
        old = dataclasses.replace(
            scene.prepared.cost,
            time=None if times is None else times[0],
            peak_bytes=scene.before.peak_bytes(),
        )
        new = Cost(
            ops=len(model.graph),
            parameters=weight_count(model),
            bytes=size,
            time=None if times is None else times[1],
            peak_bytes=after.peak_bytes(),
        )
        return old, new

    def _fusions(self) -> Mapping[str, int]:
        if self._target.name != "onnxruntime":
            return {}
        return runtime_fusions(self._folder / "model.onnx")


def _metrics(found: tuple[Scores, Scores]) -> tuple[float, float]:
    return found[0].metric, found[1].metric
