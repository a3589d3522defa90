"""The main job: capture, prove every rewrite, lower, check in a fresh process, write."""

import errno
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

from whet.artifact import Artifact, check_destination, replace_folder
from whet.backends.base import Target, find_target
from whet.contest import hold_contest
from whet.errors import BudgetMissed, UsageError
from whet.job import Call, Job
from whet.options import Data, Evaluate, Options, read_options
from whet.page import add_page
from whet.passes.recipes import read_recipe
from whet.preparation import prepare
from whet.setting import Setting

__all__ = ["compile"]

_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


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
    an ``.npz``, a dict of stacked arrays or an iterable of feeds; of eight samples and
    more a tenth is held out, to judge by. ``evaluate`` maps a runner to a metric where larger
    is better; ``labels`` (inputs and ``labels``) makes it top-1 accuracy of the first output. The other options are
    the fields of :class:`Options`. Without ``output`` the artifact lives in a temporary folder until it is saved.

    Raises:
        InvalidModel, UnsupportedModel, UnsafeModel: the source.
        UsageError, CalibrationError: an argument.
        NothingChanged: a pass that was asked for changed nothing.
        BudgetMissed: the artifact was written, but it is outside the budget.
        BrokenPass: a pass broke its contract; nothing was written.
    """
    settings = read_options(options)
    recipe = read_recipe(settings.recipe, allow_noop=settings.allow_noop)
    target = None if settings.target == "auto" else find_target(settings.target).on(settings.place)
    if settings.tune:
        target = _tuned(target, settings.tune)
    _check_measurable(settings, target, metric=evaluate is not None or labels is not None)
    parent = None if output is None else check_destination(Path(output))
    keep = tempfile.TemporaryDirectory(prefix=".whet-", dir=parent)
    try:
        settings.progress("capture")
        scratch = Path(keep.name)
        prepared = prepare(
            source, inputs, dynamic_shapes=dynamic_shapes, folder=scratch, trust=trust
        )
        where = None if output is None else Path(output)
        call = Call(calibration, labels, evaluate)
        if target is None:
            artifact = hold_contest(settings, recipe, scratch, where, prepared, call)
        else:
            artifact = Job(Setting(settings, target, recipe, scratch, where)).run(prepared, call)
        if output is not None:
            if settings.page and artifact.report is not None:
                settings.progress("render the report")
                add_page(artifact.folder, artifact.report)
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
        weakref.finalize(artifact, keep.cleanup)
    else:
        keep.cleanup()
    assert artifact.report is not None
    assert artifact.report.limits is not None
    if missed := artifact.report.limits.missed:
        raise BudgetMissed("; ".join(missed) + "; the artifact was written", artifact)
    return artifact


def _tuned(target: Target | None, time: str) -> Target:
    if target is None:
        raise UsageError(
            f"--tune {time} needs a target that has kernels to tune (tvm), the target is 'auto'"
        )
    return target.tuned(time)


def _check_measurable(options: Options, target: Target | None, *, metric: bool) -> None:
    """Refuse a limit on something that nobody will measure."""
    target = target or find_target("onnxruntime")
    ram, flash = options.budget.device
    if ram is not None and not target.counts_memory:
        raise UsageError(
            f"a limit on RAM needs a target that plans memory (c, tvm), the target is '{target.name}'"
        )
    if flash is not None and not (target.counts_memory or target.counts_flash):
        raise UsageError(
            "a limit on flash needs a target that counts its bytes (c, onnxruntime, tvm), "
            f"the target is '{target.name}'"
        )
    if options.budget.drop is not None and not metric:
        raise UsageError("a limit on the drop needs a metric: give evaluate or labels")
    if options.budget.drop is not None and (reason := target.idle()):
        raise UsageError(f"a limit on the drop needs a result that runs here: {reason}")
    if options.budget.latency is not None and not options.place.here:
        raise UsageError(
            f"a limit on the latency needs timing, and this machine is not the device '{options.place.name}'"
        )
    if options.budget.latency is not None and not options.measure:
        raise UsageError("a limit on the latency needs timing, which is switched off")
    if target.tuning and not options.place.here:
        raise UsageError(
            f"tuning needs timing, and this machine is not the device '{options.place.name}'"
        )
    if target.tuning and not options.measure:
        raise UsageError("tuning needs timing, which is switched off")
