"""What a compile would do: the same capture and bindings, every pass dry, nothing written."""

import dataclasses
import resource
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir

from whet.analysis.calibration import Dataset, batch_size, read_dataset
from whet.backends.base import RuntimeOptions, Target, find_target, triple_option
from whet.backends.device import Device
from whet.backends.probe import find_bindings
from whet.backends.triples import find_place
from whet.backends.worker import Worker
from whet.budget import Budget
from whet.errors import (
    CalibrationError,
    InvalidModel,
    NothingChanged,
    UnsupportedTarget,
    UsageError,
)
from whet.ir.bindings import Bindings, symbols
from whet.ir.execute import CannotRun
from whet.options import Data
from whet.passes.base import Pass
from whet.passes.pipeline import Pipeline, Step, flatten
from whet.passes.recipes import read_recipe
from whet.passes.workbench import Context
from whet.preparation import Prepared, prepare
from whet.report import Cost

__all__ = ["Plan", "PlannedStep", "Request", "make_plan"]


@dataclasses.dataclass(frozen=True)
class Request:
    """What a compile would be asked for."""

    target: str = "onnxruntime"
    device: str = "host"
    triple: str = ""
    recipe: str = "auto"
    calibration: Data | None = None
    labels: Data | None = None
    budget: Budget = dataclasses.field(default_factory=Budget)
    threads: int = 0
    max_ram: int | None = None
    seed: int = 0
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    allow_noop: bool = False
    trust: bool = False

    @property
    def place(self) -> Device:
        """Return the device that the result would run on."""
        return find_place(self.device, self.triple or triple_option(self.target))


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """One pass: what it needs and what it would do."""

    name: str
    fidelity: str
    needs: tuple[str, ...]
    matched: int
    changed: int
    bytes_saved: int
    gated: bool
    declined: Mapping[str, str]
    problem: str = ""
    """Why the compile would stop here; empty if it would not."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps, and what stands before and after them."""

    origin: str
    target: str
    recipe: str
    steps: tuple[PlannedStep, ...]
    before: Cost
    after: Cost
    """Predicted, before any pass is taken back for being slower."""
    dimensions: tuple[str, ...]
    bindings: tuple[Mapping[str, int], ...]
    bindings_note: str
    peak_bytes: int
    """Estimate for the compile: this process, and two that run the model."""
    calibration_bytes: int
    """The most that values of one calibration run take, which ``max_ram`` limits."""
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {"schema": 1, **dataclasses.asdict(self)}


def make_plan(source: str, request: Request, progress: Callable[[str], None]) -> Plan:
    """Capture ``source``, find sizes it runs at, and run every pass on it without proof.

    Raises what :func:`whet.compile` would raise for the source and the arguments.
    """
    recipe = read_recipe(request.recipe, allow_noop=request.allow_noop)
    device = request.place
    target = find_target(request.target).on(device)
    with tempfile.TemporaryDirectory(prefix="whet-plan-") as folder:
        progress("capture")
        prepared = prepare(source, folder=Path(folder), trust=request.trust)
        names = symbols(prepared.model)
        target, fixed = target.settle(
            prepared.model, prepared.examples, request.sizes, request.seed
        )
        prepared = dataclasses.replace(prepared, model=fixed)
        request = dataclasses.replace(request, sizes=target.fixed_sizes(request.sizes))
        reasons = target.refuses(prepared.model)
        data = _read_data(request, prepared.model)
        bindings, peak = _probe(prepared, request, data, progress)
        context = _context(prepared.model, target, request, bindings, data, progress)
        steps, model = _dry_run(prepared.model, recipe.pipeline(target), context)
        progress("predict the size")
        try:
            after = _cost_after(model, target, Path(folder))
        except UnsupportedTarget as error:
            reasons, after = [*reasons, str(error)], prepared.cost
        ram, flash = request.budget.device
        ram, flash = ram or device.ram, flash or device.flash
        over = target.over(Path(folder) / "predicted", ram, flash)
    return Plan(
        origin=prepared.origin,
        target=target.name,
        recipe=str(recipe),
        steps=steps,
        before=prepared.cost,
        after=after,
        dimensions=names,
        bindings=bindings.choices,
        bindings_note=bindings.note,
        calibration_bytes=context.observed_bytes,
        peak_bytes=2 * peak + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        problems=(
            *reasons,
            *_missed(request.budget, prepared.cost, after),
            *over,
            *_crowded(request),
        ),
    )


def _read_data(request: Request, model: onnx_ir.Model) -> Dataset | None:
    if request.labels is not None:
        read_dataset(request.labels, model, "labels file")
    if request.calibration is None:
        return None
    return read_dataset(request.calibration, model)


def _probe(
    prepared: Prepared, request: Request, data: Dataset | None, progress: Callable[[str], None]
) -> tuple[Bindings, int]:
    progress("find sizes it runs at")
    examples = dict(prepared.examples)
    if data is not None:
        examples = dict(data.batches(batch_size(prepared.model, default=1))[0])
    try:
        with Worker(prepared.source, RuntimeOptions(request.threads)) as worker:
            found = find_bindings(prepared.model, worker, examples, request.sizes)
            if not found.choices:
                raise InvalidModel(f"the source does not run: {found.note}")
            return found, worker.peak_bytes()
    except CannotRun as error:
        raise InvalidModel(f"the source does not run: {error}") from error


def _context(
    model: onnx_ir.Model,
    target: Target,
    request: Request,
    bindings: Bindings,
    data: Dataset | None,
    progress: Callable[[str], None],
) -> Context:
    fit = None if data is None else data.held_out()[0]
    return Context(
        bindings=bindings,
        calibration=() if fit is None else fit.batches(batch_size(model)),
        seed=request.seed,
        threads=request.threads,
        max_ram=request.max_ram,
        prove=False,
        progress=progress,
        target=target.name,
        device=request.place,
    )


def _dry_run(
    model: onnx_ir.Model, pipeline: Pipeline, context: Context
) -> tuple[tuple[PlannedStep, ...], onnx_ir.Model]:
    planned: dict[str, PlannedStep] = {}
    kinds = {step.name: type(step) for step in flatten(pipeline.stages)}
    for stage in pipeline.stages:
        single = Pipeline((stage,))
        try:
            model, done = single.run(model, context)
        except CalibrationError:
            raise
        except (UsageError, NothingChanged) as error:
            for stopped in flatten((stage,)):
                planned[stopped.name] = _stopped(stopped, str(error))
            continue
        for step in done:
            _merge(planned, _planned(step, kinds[step.name], pipeline.asked_for))
    return tuple(planned.values()), model


def _planned(step: Step, kind: type[Pass], asked_for: frozenset[str]) -> PlannedStep:
    coverage = step.coverage
    problem = ""
    if step.name in asked_for and not coverage.changed:
        problem = f"would change nothing, which is an error: {coverage.nearest_miss}"
    return PlannedStep(
        name=step.name,
        fidelity=step.fidelity,
        needs=_needs(kind),
        matched=coverage.matched,
        changed=coverage.changed,
        bytes_saved=step.bytes_before - step.bytes_after,
        gated=kind.gated,
        declined=dict(coverage.declined),
        problem=problem,
    )


def _stopped(step: Pass, problem: str) -> PlannedStep:
    cls = type(step)
    return PlannedStep(step.name, cls.fidelity.value, _needs(cls), 0, 0, 0, cls.gated, {}, problem)


def _merge(planned: dict[str, PlannedStep], step: PlannedStep) -> None:
    """Add a step to what an earlier stage has found for the same pass."""
    old = planned.get(step.name)
    if old is None:
        planned[step.name] = step
        return
    planned[step.name] = dataclasses.replace(
        step,
        matched=old.matched + step.matched,
        changed=old.changed + step.changed,
        bytes_saved=old.bytes_saved + step.bytes_saved,
        problem=old.problem and step.problem,
    )


def _needs(kind: type[Pass]) -> tuple[str, ...]:
    needs = {analysis.__name__ for analysis in kind.needs} - {"Sizes"}
    return tuple(sorted("calibration data" if need == "Ranges" else need for need in needs))


def _cost_after(model: onnx_ir.Model, target: Target, folder: Path) -> Cost:
    from whet.ir.values import weight_count

    out = folder / "predicted"
    out.mkdir()
    files = target.lower(model, out)
    return Cost(len(model.graph), weight_count(model), target.weigh(out, files))


def _crowded(request: Request) -> list[str]:
    """Say so if this process has already taken more than the compile is allowed to."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if request.max_ram is None or peak <= request.max_ram:
        return []
    return [f"this process took {peak / 1e6:,.0f} MB, max_ram is {request.max_ram / 1e6:,.0f} MB"]


def _missed(budget: Budget, before: Cost, after: Cost) -> list[str]:
    _, size, _ = budget.limits(before.bytes)
    if size is None or after.bytes <= size:
        return []
    return [f"predicted size is {after.bytes:,} bytes, the budget {size:,}"]
