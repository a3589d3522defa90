"""``--target auto``: compile for every runtime that can run the model, and let measured times choose among them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.artifact import Artifact
from whet.backends.base import RuntimeOptions, Target, targets
from whet.backends.measure import Timing, compare_speed, slower
from whet.backends.worker import Worker
from whet.errors import BrokenPass, NothingChanged, UnsupportedTarget, WhetError
from whet.ir.values import Array
from whet.job import Call, Job
from whet.options import Data, Options
from whet.passes.recipes import Recipe
from whet.preparation import Prepared
from whet.printing import row_by_row
from whet.report import Report
from whet.setting import Setting

__all__ = ["Contender", "choose", "hold_contest"]

_LESS = 2.0
"""Times the first contender's error that another may have where no metric tells what it means."""
_NEGLIGIBLE = 1e-4
"""Relative error that other orders of sums explain."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A compiled result, as it takes part."""

    target: str
    error: float
    """The largest relative error of an output against the source's."""
    metric: float | None = None
    source: float | None = None
    """The source's own metric."""
    missed: tuple[str, ...] = ()
    """Limits of the budget that it breaks."""


def choose(
    entries: Sequence[Contender],
    runs: Sequence[Sequence[Timing]],
    allowed: float | None = None,
) -> tuple[int, str, Mapping[str, str]]:
    """Return which contender wins and why, and why others may not; a function of its arguments alone.

    The first one is the default, and stays unless another is faster beyond doubt in every one of the ``runs``, which
    time all of them in alternation. ``allowed`` is the drop of the metric that the user accepts; without a metric, a
    contender may not be much less exact than the first.
    """
    first = next((k for k, entry in enumerate(entries) if not entry.missed), 0)
    barred: dict[str, str] = {}
    for k, entry in enumerate(entries):
        if k != first and (reason := _barred(entry, entries[first], allowed)):
            barred[entry.target] = reason
    open_to = [k for k in range(len(entries)) if entries[k].target not in barred]
    if not runs:
        return first, "nothing was timed, so the first one that runs the model", barred
    faster = [k for k in open_to if k != first and all(slower(run[k], run[first]) for run in runs)]
    if not faster:
        others = [entries[k].target for k in open_to if k != first]
        why = (
            f"{' and '.join(others)} not faster beyond doubt"
            if others
            else "no other may be chosen"
        )
        return first, why, barred
    best = min(faster, key=lambda k: (max(run[k].median for run in runs), k))
    ratio = max(run[best].median / run[first].median for run in runs)
    return best, f"{ratio:.2f}x of the time of {entries[first].target} or less", barred


def _barred(entry: Contender, first: Contender, allowed: float | None) -> str:
    """Return why a contender may not win, however fast it is."""
    if entry.missed:
        return f"it misses the budget: {entry.missed[0]}"
    if entry.metric is not None and first.metric is not None:
        # What is as good as the source has lost nothing, though another may by chance have gained.
        floor = min(first.metric, first.metric if entry.source is None else entry.source)
        lost = f"its metric is {entry.metric:.6g}, expected {floor:.6g} or more"
        return "" if entry.metric >= floor - (allowed or 0.0) else f"less accurate: {lost}"
    if entry.error <= max(_LESS * first.error, _NEGLIGIBLE):
        return ""
    return f"less accurate: relative error {entry.error:.1e}, {first.target}'s is {first.error:.1e}"


def hold_contest(
    options: Options,
    recipe: Recipe,
    scratch: Path,
    output: Path | None,
    prepared: Prepared,
    call: Call,
) -> Artifact:
    """Compile for each runtime in turn, time the results against each other, return the winner's artifact."""
    call = Call(_kept(call.calibration), _kept(call.labels), call.evaluate)
    made: list[tuple[Artifact, Report]] = []
    refused: dict[str, str] = {}
    errors: list[WhetError] = []
    feeds: Mapping[str, Array] = {}
    for name, target in contenders().items():
        if reason := target.absent(prepared.model, options.sizes):
            refused[name] = reason
            continue
        options.progress(f"compile for {name}")
        mine = scratch / name
        mine.mkdir()
        try:
            job = Job(Setting(options, target.on(options.place), recipe, mine, output))
            copy = dataclasses.replace(prepared, model=prepared.model.clone())
            artifact = job.run(copy, call)
        except (UnsupportedTarget, BrokenPass, NothingChanged) as error:
            refused[name] = str(error)
            errors.append(error)
            continue
        assert artifact.report is not None
        made.append((artifact, artifact.report))
        feeds = feeds or job.feeds
    if not made:
        raise errors[0] if errors else UnsupportedTarget("; ".join(refused.values()))
    runs = _race([a.folder for a, _ in made], feeds, options.progress) if options.timed else []
    return _settle(made, runs, refused, options)


def contenders() -> dict[str, Target]:
    """Return the runtimes that may be chosen, the default one first."""
    return {name: target for name, target in targets().items() if target.contends}


def _kept(data: Data | None) -> Data | None:
    """Keep what can be gone through once only."""
    if isinstance(data, Iterable) and not isinstance(data, str | Mapping):
        return list(data)
    return data


def _race(
    folders: Sequence[Path], feeds: Mapping[str, Array], progress: Callable[[str], None]
) -> list[list[Timing]]:
    """Time all results in the same alternating run, twice."""
    progress("time the runtimes against each other")
    workers: list[Worker] = []
    try:
        workers += [Worker(folder, RuntimeOptions()) for folder in folders]
        return [compare_speed(workers, [feeds] * len(workers)) for _ in range(2)]
    finally:
        for worker in workers:
            worker.close()


def _settle(
    made: Sequence[tuple[Artifact, Report]],
    runs: Sequence[Sequence[Timing]],
    refused: dict[str, str],
    options: Options,
) -> Artifact:
    """Choose, and write into the winner's report why."""
    entries = [_entry(report) for _, report in made]
    allowed = options.budget.limits(1)[0]
    best, why, barred = choose(entries, runs, allowed)
    artifact, report = made[best]
    rows: list[dict[str, Any]] = [
        {
            **dataclasses.asdict(entry),
            "bytes": other.after.bytes,
            "times": [dataclasses.asdict(run[k]) for run in runs],
        }
        for k, (entry, (_, other)) in enumerate(zip(entries, made, strict=True))
    ]
    refused |= barred
    report.contest = {"chosen": report.target, "why": why, "results": rows, "refused": refused}
    times = [f"{e.target} {run[k]}" for run in runs[:1] for k, e in enumerate(entries)]
    report.notes.append(
        f"runtime {report.target}, chosen among {len(entries)}: {'; '.join([why, *times])}"
    )
    report.notes += [f"runtime {name} was not chosen: {reason}" for name, reason in refused.items()]
    (artifact.folder / "report.json").write_text(row_by_row(report.to_json()))
    return artifact


def _entry(report: Report) -> Contender:
    source, metric = (None, None) if report.metric is None else report.metric
    missed = () if report.limits is None else report.limits.missed
    return Contender(report.target, report.worst_error, metric, source, missed)
