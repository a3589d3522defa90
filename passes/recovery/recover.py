"""Tune what compression left, by gradients, until the model answers as the original does."""

import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir

from whet.errors import Mismatch, WhetError
from whet.ir.execute import CannotRun
from whet.ir.residency import spill
from whet.ir.values import Array
from whet.passes.base import Change, Fidelity, Pass, Tuning
from whet.passes.option import option
from whet.passes.recovery.augmentation import Augment
from whet.passes.recovery.distances import Distance, Loss, Measured
from whet.passes.recovery.hidden import hidden_pairs
from whet.passes.recovery.processor import multiplies_bfloat16
from whet.passes.recovery.samples import Samples
from whet.passes.recovery.student import Student, What, stored
from whet.passes.recovery.teacher import Teacher
from whet.passes.recovery.training import Lesson, Optimizer, Plan, steady, train
from whet.passes.recovery.tunable import Tunable, find_tunable
from whet.passes.workbench import Workbench

if TYPE_CHECKING:
    import torch

__all__ = ["Recover"]

Feeds = Mapping[str, Array]
_MOST_BYTES = 1 << 29
"""What samples may take in memory, and as much again what the original answers."""


@dataclasses.dataclass(frozen=True)
class Recover(Pass):
    """Tune weights by gradients so that the outputs become those of the model before the first lossy pass again.

    Needs torch and calibration data; labels are not used. ``what=perp`` moves biases, scales and shifts of
    normalizations, and of every matrix W as much as W + M ∘ (U V) can, with U V of rank ``rank`` and M zero where W is;
    the sum is what is stored (Zimmer et al. 2023, PERP). ``what=all`` moves all weights of products and convolutions
    too. Zeros of a matrix stay zeros, so that masks survive. Tables that are looked up, and what decodes stored
    integers, codebooks and sparse weights, stay as they are: recover first, pack afterwards.

    Minimized is, with a warm-up and a cosine, ``outputs``: ||ŷ - y||² / ||y||² averaged over outputs, y being
    the original's; ``divergence``: KL(softmax y || softmax ŷ); or ``features``: ``outputs``, and the mean of the same
    for sums of residual branches (activations where there are none) that both models have in the same shape. Every
    tenth sample is only watched; the weights that were nearest to the original there are taken. Both models then run on
    held-out data, and if the distance is no smaller than it was, nothing is changed. If ``minutes`` do not suffice, so
    many steps are planned as fit, and their number is reported: with equal steps, seed and threads the result is the
    same to the bit. Interrupted, it leaves the model as it was.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    compares: ClassVar[bool] = True
    explains: ClassVar[bool] = True

    what: What = "perp"
    """What may move."""
    rank: int = option(8, at_least=1)
    """Of what is added to a matrix with ``perp``."""
    steps: int = option(2000, at_least=1)
    """Of Adam; fewer where the minutes do not suffice."""
    minutes: float = option(5.0, above=0)
    """No step begins later."""
    batch: int = option(0, at_least=0)
    """Samples per step; 0: 128 small pictures, 8 large ones, 32 of anything else."""
    rate: float = option(0.001, above=0)
    """The largest learning rate; three tenths of it, and again, after a look that is no nearer than the start."""
    loss: Loss = "outputs"
    """What is minimized."""
    optimizer: Optimizer = "adam"
    """``muon`` takes orthogonal steps with matrices (Jordan et al. 2024): dearer ones, but fewer are needed."""
    augment: Augment = "none"
    """``flip`` mirrors half of the pictures, ``shift`` also moves them by up to an eighth."""
    patience: int = option(16, at_least=1)
    """Stop after so many of about forty looks at watched samples in a row without a gain."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What products are computed in while training; ``auto`` takes bfloat16 where the processor multiplies it."""

    def apply(self, work: Workbench) -> None:
        """Train, judge, write back."""
        original = work.context.original
        if original is None or work.context.exhausted:
            return
        tunable, refused = find_tunable(work.graph, work.nodes())
        work.coverage.matched += len(tunable)
        work.coverage.near_misses.update(refused)
        if not tunable:
            return
        try:
            recovery = _Recovery(self, work, original, tunable)
            arrays, tuning = recovery.run()
        except (Mismatch, CannotRun, WhetError) as reason:
            work.coverage.declined["model"] = str(reason)
            return
        work.coverage.tunings.append(tuning)
        assert tuning.before is not None
        assert tuning.after is not None
        gain = f"distance on {recovery.judged_on} {tuning.before:.4g}, {tuning.after:.4g}"
        if not tuning.after < tuning.before:
            work.coverage.declined["model"] = (
                f"tuning brought it no nearer to the original: {gain} after {tuning.steps} steps"
            )
            return
        count = _write(work, tunable, arrays)
        work.changed_by_hand(count, f"nearer to the original, {gain} after {tuning.steps} steps")
        work.coverage.matched -= count


class _Recovery:
    """One model, its original, and data."""

    def __init__(
        self, step: Recover, work: Workbench, original: onnx_ir.Model, tunable: Sequence[Tunable]
    ) -> None:
        context = work.context
        _check_needs(context.calibration)
        self._step, self._work, self._original, self._tunable = step, work, original, tunable
        made = _outputs(original)
        present = [name for name in _outputs(work.model) if name in made]
        if not present:
            raise Mismatch("the model has no floating-point output that an operator makes")
        hidden = hidden_pairs(work.model, original, context) if step.loss == "features" else []
        self._outputs = present
        self._names = (
            [*present, *(new for new, _ in hidden)],
            [*present, *(old for _, old in hidden)],
        )
        self._samples = Samples(work.model, context.calibration, _MOST_BYTES)
        if not (len(self._samples.trained) and len(self._samples.watched)):
            raise Mismatch("one sample of calibration data is too few to tune on and to judge by")
        self.judged_on = "held-out data" if context.held_out else "calibration data put aside"

    def run(self) -> tuple[dict[str, Array], Tuning]:
        """Return the tuned weights, and how they were found and judged."""
        step, context = self._step, self._work.context
        before = self._judge(self._work.model)
        if before == 0:
            raise Mismatch("there is nothing to recover, the outputs are those of the original")
        with steady(context.threads, context.seed):
            student = self._student()
            teacher = Teacher(self._original, self._names[1], context.threads, _MOST_BYTES)
            plan = Plan(
                steps=step.steps,
                seconds=60 * step.minutes,
                batch=step.batch or self._samples.usual_batch(),
                rate=step.rate,
                patience=step.patience,
                seed=context.seed,
                augment=step.augment,
                optimizer=step.optimizer,
            )
            distance = Distance(step.loss, len(self._outputs))
            lesson = Lesson(
                student, teacher, self._sketch(), self._samples, distance, plan, context.progress
            )
            best, tuning = train(lesson)
        arrays = {
            one.name: stored(one.value, array)
            for one, (_, array) in zip(self._tunable, student.arrays(best), strict=True)
        }
        after = self._judge(_with(self._work.model, arrays))
        return arrays, dataclasses.replace(tuning, before=before, after=after)

    def _student(self) -> Student:
        return self._twin(self._work.model, self._tunable, self._names[0])

    def _sketch(self) -> Student | None:
        """Return the original in bfloat16, where it has a twin and the student is computed so too."""
        if not self._low:
            return None
        try:
            return self._twin(self._original, (), self._names[1])
        except WhetError:
            return None

    @property
    def _low(self) -> bool:
        chosen = self._step.precision
        return chosen == "bfloat16" or (chosen == "auto" and multiplies_bfloat16())

    def _twin(
        self, model: onnx_ir.Model, tunable: Sequence[Tunable], names: Sequence[str]
    ) -> Student:
        step, seed = self._step, self._work.context.seed
        return Student(
            model,
            tunable,
            names,
            what=step.what,
            rank=step.rank,
            seed=seed,
            bfloat16=self._low,
        )

    def _judge(self, model: onnx_ir.Model) -> float:
        """Return the distance of a model's outputs from the original's, both executed by the runtime."""
        threads, count = self._work.context.threads, len(self._outputs)
        distance = Distance(self._step.loss, count)
        old = Teacher(self._original, self._names[1][:count], threads, 0)
        new = Teacher(model, self._outputs, threads, 0)
        total: Measured | None = None
        for feeds in self._judges():
            part = distance.measure(_tensors(new.run(feeds)), _tensors(old.run(feeds)))
            total = part if total is None else total + part
        assert total is not None
        return float(distance.value(total))

    def _judges(self) -> Iterable[Feeds]:
        """Yield the data to judge by: those held out, or what training is only watched by."""
        if self._work.context.held_out:
            return self._work.context.held_out
        watched = self._samples.batches(self._samples.watched, 32)
        return (batch.feeds for batch in watched)


def _check_needs(calibration: Sequence[Feeds]) -> None:
    if not calibration:
        raise Mismatch("needs calibration data (no labels) to compare the model with the original")
    if importlib.util.find_spec("torch") is None:
        raise Mismatch("needs torch, which is not installed: pip install whet[torch]")


def _outputs(model: onnx_ir.Model) -> list[str]:
    """Return the floating-point outputs that operators make, by name."""
    return [
        v.name or ""
        for v in model.graph.outputs
        if v.producer() is not None and (v.dtype is None or v.dtype.is_floating_point())
    ]


def _tensors(arrays: Sequence[Array]) -> "list[torch.Tensor]":
    import torch

    return [torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in arrays]


def _with(model: onnx_ir.Model, arrays: Mapping[str, Array]) -> onnx_ir.Model:
    """Return a copy of a model with other weights, to be judged."""
    copy = model.clone()
    for name, array in arrays.items():
        copy.graph.initializers[name].const_value = onnx_ir.tensor(array, name=name)
    return copy


def _write(work: Workbench, tunable: Sequence[Tunable], arrays: Mapping[str, Array]) -> int:
    """Put new weights, under names of their own, where others were; return how many differ."""
    count = 0
    for one in tunable:
        old, array = one.value, arrays[one.name]
        assert old.const_value is not None
        if np.array_equal(old.const_value.numpy(), array):
            continue
        name = work.fresh(one.name)
        tensor = onnx_ir.tensor(array, dtype=onnx_ir.DataType(old.const_value.dtype), name=name)
        new = onnx_ir.Value(name=name, shape=old.shape, type=old.type, const_value=tensor)
        work.graph.register_initializer(new)
        old.replace_all_uses_with(new)
        del work.graph.initializers[one.name]
        if work.context.spill is not None:
            spill(new, work.context.spill)
        count += 1
    return count
