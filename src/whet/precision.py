"""Judge a runtime that computes less exactly than the file says: what it moves, and whether it is faster at all."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from whet.analysis.output_damage import OutputDamage, squares
from whet.backends.base import Target
from whet.backends.measure import compare_speed, slower
from whet.backends.worker import Worker
from whet.ir.bindings import Bindings
from whet.ir.values import Array
from whet.passes.base import Coverage, Fidelity
from whet.passes.pipeline import Step
from whet.setting import Setting

__all__ = ["judge_precision"]

Feeds = Mapping[str, Array]
_BATCHES = 8


def judge_precision(
    setting: Setting, model: onnx_ir.Model, bindings: Bindings, held_out: Sequence[Feeds]
) -> Step:
    """Run a model exactly and as the target wants it; return the record, and let the exact target stand if that pays.

    Outputs are compared on samples that nothing was fitted on, or on random ones where there are none. Where times are
    measured, what is lossy and not faster beyond doubt is taken back.
    """
    lossy, exact = setting.target, setting.target.lossless()
    step = Step(
        name=f"run as {lossy.spelled}",
        fidelity=Fidelity.LOSSY.value,
        summary=lossy.lossy,
        coverage=Coverage(1, 1, 1, proofs=Counter({"held-out data" if held_out else "random": 1})),
        explains=True,
    )
    if not held_out:
        setting.notes.append(
            f"{lossy.spelled} was judged on random inputs: there is no held-out data"
        )
    setting.options.progress(f"judge {lossy.spelled}")
    random = bindings.feeds(model, 0, setting.options.seed)
    with tempfile.TemporaryDirectory(dir=setting.scratch) as name:
        exact.lower(model, Path(name))
        path = Path(name) / "model.onnx"
        with _open(path, setting, exact) as before, _open(path, setting, lossy) as after:
            batches = itertools.islice(held_out, _BATCHES) if held_out else [random]
            step.outputs = _damage(before, after, batches)
            if setting.options.timed and (reason := _idle(before, after, random)):
                step.reverted = reason
                setting.target = exact
    return step


def _open(path: Path, setting: Setting, target: Target) -> Worker:
    return Worker(path, setting.options.runtime, target.spelled)


def _idle(before: Worker, after: Worker, feeds: Feeds) -> str:
    """Return why the less exact one is not worth it; the second measurement decides."""
    reason = ""
    for _ in range(2):
        exact, lossy = compare_speed([before, after], [feeds, feeds])
        if slower(lossy, exact):  # the exact one is
            return ""
        reason = f"not faster, measured twice: {exact} exactly, {lossy} less exactly"
    return reason


def _damage(before: Worker, after: Worker, batches: Iterable[Feeds]) -> tuple[OutputDamage, ...]:
    lost, whole = np.zeros(len(before.outputs)), np.zeros(len(before.outputs))
    samples = 0
    for feeds in batches:
        samples += max((len(a) for a in feeds.values() if a.ndim), default=1)
        for k, pair in enumerate(zip(before.run(feeds), after.run(feeds), strict=True)):
            part = squares(*pair)
            lost[k] += part[0]
            whole[k] += part[1]
    return tuple(
        OutputDamage.of(name, float(lost[k]), float(whole[k]), samples)
        for k, name in enumerate(before.outputs)
    )
