"""The main job: capture, prove every rewrite, lower, check in a fresh process, write."""

import dataclasses
import difflib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir

from whet import __version__
from whet.analysis.calibration import Dataset, batch_size, read_dataset
from whet.analysis.kernel_prices import KernelPrices
from whet.artifact import Artifact, check_destination, digest, replace_folder
from whet.backends.base import Runner, RuntimeOptions, Target, find_target
from whet.backends.gate import NeverWorse
from whet.backends.measure import Timing, compare_speed
from whet.backends.onnxruntime import runtime_fusions
from whet.backends.probe import find_bindings
from whet.backends.worker import Turns, Worker
from whet.budget import Budget
from whet.comparison import accuracy, check_agreement, hold_against, record
from whet.errors import BrokenPass, BudgetMissed, InvalidModel, UnsupportedTarget, UsageError
from whet.ir.bindings import Bindings
from whet.ir.capture import Captured, capture
from whet.ir.execute import CannotRun
from whet.ir.prepare import normalize
from whet.ir.saving import save_model
from whet.ir.storage import stored_bytes
from whet.ir.values import Array, dimensions, weight_count
from whet.ir.verify import verify
from whet.passes.pipeline import Step
from whet.passes.recipes import Recipe, read_recipe
from whet.passes.workbench import Context
from whet.report import Agreement, Cost, Report

__all__ = ["Options", "Prepared", "compile", "prepare"]

_LARGE = 1 << 29
"""Models of more bytes are loaded one at a time: the source and its result together take twice the memory."""
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
Evaluate = Callable[[Runner], float]
Data = str | Path | Mapping[str, Array] | Iterable[Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything about a compile that is neither the model nor its data."""

    target: str = "onnxruntime"
    recipe: str | Path = "auto"
    budget: Budget = dataclasses.field(default_factory=Budget)
    threads: int = 0
    optimization: str = "all"
    seed: int = 0
    prove: bool = True
    measure: bool = True
    allow_noop: bool = False
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Sizes for symbolic dimensions, used for the first binding and for timing."""
    progress: Callable[[str], None] = lambda _message: None

    @property
    def runtime(self) -> RuntimeOptions:
        """Return how the result is run."""
        return RuntimeOptions(self.threads, self.optimization)


@dataclasses.dataclass
class Prepared:
    """A model ready for passes, and the source it is compared with."""

    model: onnx_ir.Model
    origin: str
    source: Path
    """The model file as it came in."""
    label: str
    """The name of the source without folders, which would differ from machine to machine."""
    examples: Mapping[str, Array]
    cost: Cost
    """Operators and parameters of the source, functions inlined and constants lifted; its bytes as they came."""


def prepare(
    source: object,
    inputs: object = None,
    *,
    dynamic_shapes: object = None,
    folder: Path,
    trust: bool = False,
) -> Prepared:
    """Capture a source and bring it to the form that passes expect; ``folder`` holds temporary files."""
    captured = capture(source, inputs, dynamic_shapes=dynamic_shapes, trust=trust)
    path = _source_file(source, captured, folder)
    model = normalize(captured.model)
    verify(model)
    cost = Cost(len(model.graph), weight_count(model), stored_bytes(path))
    label = Path(source).name if isinstance(source, str | Path) else captured.origin
    return Prepared(model, captured.origin, path, label, captured.feeds, cost)


def _source_file(source: object, captured: Captured, folder: Path) -> Path:
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        return Path(source)
    path = folder / "source.onnx"
    save_model(captured.model, path)
    return path


def compile(
    source: object,
    inputs: object = None,
    *,
    dynamic_shapes: object = None,
    calibration: Data | None = None,
    evaluate: Evaluate | None = None,
    labels: Data | None = None,
    output: str | Path | None = None,
    trust: bool = False,
    **options: Any,
) -> Artifact:
    """Compile a model: rewrite it with proof, lower it, check it in a fresh process.

    ``source`` is a module (with ``inputs``), an ExportedProgram, an FX GraphModule (with ``inputs``), a path to
    ``.onnx`` or ``.pt2``, an ONNX proto, an ``onnx_ir.Model`` or ``"pkg.mod:factory"``. ``calibration`` is a path to
    an ``.npz``, a dict of stacked arrays or an iterable of feeds. ``evaluate`` maps a runner to a metric where larger
    is better; ``labels`` (inputs and ``labels``) makes it top-1 accuracy of the first output. The other options are
    the fields of :class:`Options`. Without ``output`` the artifact lives in a temporary folder until it is saved.

    Raises:
        InvalidModel, UnsupportedModel, UnsafeModel: the source.
        UsageError, CalibrationError: an argument.
        NothingChanged: a pass that was asked for changed nothing.
        BudgetMissed: the artifact was written, but it is outside the budget.
        BrokenPass: a pass broke its contract; nothing was written.
    """
    settings = _options(options)
    recipe = read_recipe(settings.recipe, allow_noop=settings.allow_noop)
    target = find_target(settings.target)
    _check_measurable(settings, metric=evaluate is not None or labels is not None)
    parent = None if output is None else check_destination(Path(output))
    keep = tempfile.TemporaryDirectory(prefix=".whet-", dir=parent)
    try:
        settings.progress("capture")
        scratch = Path(keep.name)
        prepared = prepare(
            source, inputs, dynamic_shapes=dynamic_shapes, folder=scratch, trust=trust
        )
        job = _Job(settings, target, recipe, scratch)
        artifact = job.run(prepared, _Call(calibration, labels, evaluate))
        if output is not None:
            replace_folder(artifact.folder, Path(output))
            artifact.folder = Path(output)
    except OSError as error:
        keep.cleanup()
        if error.errno not in _CANNOT_WRITE:
            raise
        reason = os.strerror(error.errno)
        raise UsageError(f"cannot write '{output or keep.name}': {reason}") from error
    except BaseException:
        keep.cleanup()
        raise
    if output is None:
        artifact.keep = keep
    else:
        keep.cleanup()
    assert artifact.report is not None
    missed = job.missed(artifact.report)
    if missed:
        raise BudgetMissed("; ".join(missed) + "; the artifact was written", artifact)
    return artifact


def _options(given: Mapping[str, Any]) -> Options:
    known = [f.name for f in dataclasses.fields(Options)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
            raise UsageError(f"unknown option '{name}'{hint}")
    return Options(**given)


def _check_measurable(options: Options, *, metric: bool) -> None:
    """Refuse a limit on something that nobody will measure."""
    if options.budget.drop is not None and not metric:
        raise UsageError("a limit on the drop needs a metric: give evaluate or labels")
    if options.budget.latency is not None and not options.measure:
        raise UsageError("a limit on the latency needs timing, which is switched off")


@dataclasses.dataclass
class _Call:
    """The arguments of one compile that are data."""

    calibration: Data | None
    labels: Data | None
    evaluate: Evaluate | None


class _Job:
    """One compile: the steps in order, and what each leaves for the next."""

    def __init__(self, options: Options, target: Target, recipe: Recipe, scratch: Path) -> None:
        self._options = options
        self._target = target
        self._recipe = recipe
        self._scratch = scratch
        self._folder = scratch / "artifact"
        self._notes: list[str] = []
        self._kernels: Mapping[str, Mapping[str, float]] = {}
        self._turns: Turns | None = None
        """Who has a model loaded, where only one may."""
        self._start = time.perf_counter()

    def run(self, prepared: Prepared, call: _Call) -> Artifact:
        """Transform, lower, check, write; return the artifact in its temporary folder."""
        reasons = self._target.refuses(prepared.model)
        if reasons:
            raise UnsupportedTarget(
                f"target '{self._target.name}' cannot run it: {'; '.join(reasons)}"
            )
        data = _read(call.calibration, prepared.model, "calibration data")
        labels = _read(call.labels, prepared.model, "labels file")
        self._turns = Turns() if prepared.cost.bytes > _LARGE else None
        self._options.progress("load the source")
        with self._open_source(prepared) as before:
            bindings = self._bindings(prepared, data, before)
            expected = self._record(prepared, bindings, before)
            model, steps = self._transform(prepared.model, bindings, data)
            files = self._lower(model)
            manifest = self._write_manifest(prepared, model, files)
            self._options.progress("check in a fresh process")
            with self._open_result() as after:
                agreements = self._compare(
                    prepared, model, steps, bindings, expected, before, after
                )
                times = self._measure(model, bindings, before, after)
                metric = _score(call.evaluate, labels, batch_size(model), before, after)
                costs = self._costs(prepared, model, files, times, before, after)
        report = Report(
            origin=prepared.origin,
            target=self._target.name,
            recipe=str(self._recipe),
            steps=steps,
            before=costs[0],
            after=costs[1],
            agreements=agreements,
            fusions=self._fusions(),
            notes=self._notes,
            versions=_versions(self._target),
            metric=metric,
            kernels=self._kernels,
            seconds=time.perf_counter() - self._start,
        )
        text = json.dumps(report.to_json(), indent=1, default=str)
        (self._folder / "report.json").write_text(text)
        return Artifact(self._folder, manifest, report)

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
            examples = next(data.batches(batch_size(prepared.model, default=1)))
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

    def _transform(
        self, model: onnx_ir.Model, bindings: Bindings, data: Dataset | None
    ) -> tuple[onnx_ir.Model, list[Step]]:
        batches = () if data is None else tuple(data.batches(batch_size(model)))
        context = Context(
            bindings=bindings,
            calibration=batches,
            seed=self._options.seed,
            threads=self._options.threads,
            prove=self._options.prove,
            reproducers=self._scratch / "reproducers",
            progress=self._options.progress,
            target=self._target.name,
            spill=self._scratch / "weights",
        )
        pipeline = self._recipe.pipeline(self._target)
        if not self._options.measure:
            return pipeline.run(model, context)
        gate = NeverWorse(self._target, self._options.runtime, bindings, self._scratch, self._turns)
        if self._target.name != "onnxruntime":
            return pipeline.run(model, context, gate)
        version = self._target.versions()["onnxruntime"]
        with KernelPrices(self._options.runtime, version) as prices:
            context.prices = prices
            found = pipeline.run(model, context, gate)
        self._kernels = prices.used
        return found

    def _lower(self, model: onnx_ir.Model) -> list[str]:
        self._options.progress(f"lower to {self._target.name}")
        self._folder.mkdir()
        files = self._target.lower(model, self._folder)
        shutil.rmtree(self._scratch / "weights", ignore_errors=True)
        reproducers = self._scratch / "reproducers"
        if reproducers.is_dir():
            reproducers.rename(self._folder / "reproducers")
        return files

    def _compare(
        self,
        prepared: Prepared,
        model: onnx_ir.Model,
        steps: list[Step],
        bindings: Bindings,
        expected: list[list[Array]],
        before: Worker,
        after: Worker,
    ) -> list[Agreement]:
        try:
            new = record(model, bindings, after, self._options.seed)
        except CannotRun as error:
            raise BrokenPass(f"the result does not run, although it loads: {error}") from error
        found = hold_against(expected, new, bindings, before.outputs)
        runtime = self._options.runtime
        plain = RuntimeOptions(runtime.threads, "none", runtime.config)
        note = check_agreement(
            found,
            steps,
            model,
            bindings,
            before,
            lambda: Worker(prepared.source, plain, turns=self._turns),
        )
        self._notes += [note] if note else []
        return found

    def _measure(
        self, model: onnx_ir.Model, bindings: Bindings, before: Worker, after: Worker
    ) -> list[Timing] | None:
        if not self._options.measure:
            self._notes.append("nothing was timed (measuring is switched off)")
            return None
        self._options.progress("measure before and after")
        feeds = bindings.feeds(model, 0, self._options.seed)
        return compare_speed([before, after], [feeds, feeds], together=self._turns is None)

    def _costs(
        self,
        prepared: Prepared,
        model: onnx_ir.Model,
        files: list[str],
        times: list[Timing] | None,
        before: Worker,
        after: Worker,
    ) -> tuple[Cost, Cost]:
        size = sum((self._folder / name).stat().st_size for name in files)
        old = dataclasses.replace(
            prepared.cost,
            time=None if times is None else times[0],
            peak_bytes=before.peak_bytes(),
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

    def _write_manifest(
        self, prepared: Prepared, model: onnx_ir.Model, files: list[str]
    ) -> dict[str, Any]:
        manifest: dict[str, Any] = {
            "schema": 1,
            "model": files[0],
            "target": self._target.name,
            "runtime": self._options.runtime.to_json(),
            "recipe": str(self._recipe),
            "budget": dataclasses.asdict(self._options.budget),
            "seed": self._options.seed,
            "versions": _versions(self._target),
            "source": {"origin": prepared.label, "sha256": digest(prepared.source)},
            "inputs": _describe(model.graph.inputs),
            "outputs": _describe(model.graph.outputs),
            "files": {
                name: {
                    "bytes": (self._folder / name).stat().st_size,
                    "sha256": digest(self._folder / name),
                }
                for name in files
            },
        }
        (self._folder / "whet.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return manifest


def _read(data: Data | None, model: onnx_ir.Model, what: str) -> Dataset | None:
    return None if data is None else read_dataset(data, model, what)


def _score(
    evaluate: Evaluate | None, labels: Dataset | None, batch: int, before: Worker, after: Worker
) -> tuple[float, float] | None:
    if evaluate is not None:
        return float(evaluate(before)), float(evaluate(after))
    if labels is not None:
        return accuracy(before, labels, batch), accuracy(after, labels, batch)
    return None


def _versions(target: Target) -> dict[str, str]:
    core = {name: version(name) for name in ("onnx", "onnx-ir", "onnxscript", "numpy")}
    return {"whet": __version__, **core, **target.versions()}


def _describe(values: Iterable[onnx_ir.Value]) -> list[dict[str, Any]]:
    return [
        {
            "name": v.name,
            "dtype": "unknown" if v.dtype is None else _dtype_name(v.dtype),
            "shape": list(dimensions(v) or ()),
            **({"optional": True} if v.const_value is not None else {}),
        }
        for v in values
    ]


def _dtype_name(dtype: onnx_ir.DataType) -> str:
    return "string" if dtype == onnx_ir.DataType.STRING else str(dtype.numpy())
