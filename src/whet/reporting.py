"""Put together the report of a finished compile."""

from collections.abc import Mapping

import onnx_ir

from whet.analysis.weight_histograms import Histogram, find_histogram
from whet.backends.measure import Timing
from whet.backends.onnxruntime import runtime_fusions
from whet.budget import Budget
from whet.drawing import graph_record
from whet.ir.execute import CannotRun
from whet.ir.sites import find_enclosed
from whet.layers import list_layers
from whet.manifest import versions
from whet.metric import interval
from whet.passes.pipeline import Step
from whet.profiling import profile
from whet.report import Limits, Profile, Report
from whet.searching import Searched
from whet.setting import Result, Scene, Setting

__all__ = ["make_report"]

_PROFILED = 100.0
"""Milliseconds that a run of the source may take for operators to be profiled: thirteen runs of both."""
_SHOWN = 8
"""Layers whose weights are shown."""


def make_report(
    setting: Setting,
    scene: Scene,
    steps: list[Step],
    result: Result,
    searched: Searched | None,
    kernels: Mapping[str, Mapping[str, float]],
) -> Report:
    """Return what a compile did, cost and gained."""
    search = None if searched is None else searched.to_json()
    metric = result.metric
    report = Report(
        origin=scene.prepared.origin,
        target=setting.target.spelled,
        recipe=str(setting.recipe),
        steps=steps,
        before=result.costs[0],
        after=result.costs[1],
        agreements=result.agreements,
        fusions=_fusions(setting),
        notes=setting.notes,
        versions=versions(setting.target),
        metric=None if metric is None else (metric[0].metric, metric[1].metric),
        interval=None if metric is None else interval(*metric, setting.options.seed),
        search=search,
        kernels={**kernels, **setting.target.measured(setting.folder)},
        enclosed=find_enclosed(scene.prepared.model),
        graph=graph_record(result.model),
        profile=_profile(setting, scene, result.model, result.costs[0].time),
    )
    report.layers = list_layers(result.model, steps, report.advice, search)
    report.histograms = _histograms(setting, report, result)
    limits = setting.options.budget.limits(report.before.bytes)
    ram, flash = setting.options.memory
    missed = (
        *_missed(setting.options.budget, report),
        *setting.target.over(setting.folder, ram, flash),
    )
    report.limits = Limits(*limits, ram=ram, flash=flash, missed=missed)
    report.notes += setting.target.story(setting.folder)
    if ram is not None and not setting.target.counts_memory:
        report.notes.append(
            f"{setting.options.place.name} has {ram:,} bytes of RAM; what a run takes of it, {setting.target.name} "
            "does not plan, so nothing was held against that"
        )
    return report


def _histograms(setting: Setting, report: Report, result: Result) -> list[Histogram]:
    """Return the weights of the first layers; of a large model they would count as memory of the compile."""
    shown = report.layers[: 0 if setting.turns is not None else _SHOWN]
    sites = [layer.site for layer in shown if layer.error is not None]
    spread = (find_histogram(result.source, result.model, site) for site in sites)
    return [found for found in spread if found is not None]


def _profile(
    setting: Setting, scene: Scene, model: onnx_ir.Model, time: Timing | None
) -> Profile | None:
    """Profile source and result where that takes no time to speak of."""
    short = time is not None and time.median < _PROFILED
    if not short or setting.turns is not None or setting.target.name != "onnxruntime":
        return None
    setting.options.progress("profile the operators")
    feeds = scene.bindings.feeds(model, 0, setting.options.seed)
    paths = (scene.prepared.source, setting.folder / "model.onnx")
    try:
        return profile(paths, feeds, setting.options.runtime, scene.bindings.choices[0])
    except CannotRun as error:
        setting.notes.append(f"the operators could not be profiled: {error}")
        return None


def _fusions(setting: Setting) -> Mapping[str, int]:
    if setting.target.name != "onnxruntime":
        return {}
    return runtime_fusions(setting.folder / "model.onnx")


def _missed(budget: Budget, report: Report) -> list[str]:
    """Return which limits of the budget the measured result breaks."""
    drop, size, latency = budget.limits(report.before.bytes)
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
