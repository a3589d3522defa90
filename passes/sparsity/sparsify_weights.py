"""Set weights to zero where the loss feels it least, let the others make up for it, and store what is left."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.output_damage import OutputError
from whet.errors import Mismatch, UsageError
from whet.ir.execute import CannotRun
from whet.ir.values import attribute_int
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.proposal import Builder
from whet.passes.quantization.layers import measure_grams
from whet.passes.quantization.weight_readers import (
    OperandSamples,
    matched_weights,
    replace_weight,
)
from whet.passes.sparsity.algorithms.pattern import Pattern, read_pattern
from whet.passes.sparsity.gradients import Likelihood
from whet.passes.sparsity.mask_choice import Chosen, choose
from whet.passes.sparsity.recover_weights import Recovered, recover
from whet.passes.sparsity.shares import Budget
from whet.passes.sparsity.targets import Target, with_weights
from whet.passes.sparsity.weight_form import Form, form_of, spell_form
from whet.passes.workbench import Workbench

__all__ = ["SparsifyWeights"]

_JUDGES = 512
"""Samples held out that updates of all layers together are judged by."""
_ROUNDING = 0.01
"""Counts of units are whole numbers: sparsity may miss what is wanted by so much."""
Method = Literal["auto", "magnitude", "wanda", "gram", "fisher", "mfac"]


@dataclasses.dataclass(frozen=True)
class SparsifyWeights(Pass):
    """Set a share of the weights of MatMul, Gemm and Conv to zero, and store the others with their places.

    ``pattern`` is ``unstructured``, ``N:M`` (N of M inputs in a row stay, so ``sparsity`` and ``budget`` do not matter)
    or blocks ``RxC`` of outputs by inputs. Weights are ranked by ``method``: ``magnitude`` |w|; ``wanda`` |w| ||x||
    (Sun et al. 2023); ``gram``, by what the error of the layer's outputs grows when the others make up for it (Optimal
    Brain Surgeon; row by row up to 640 inputs as in Frantar et al. 2022, SparseGPT beyond); ``fisher``, the same for
    the loss, by gradients in blocks (Optimal BERT Surgeon, Kurtic et al. 2022) that the Gram matrix steadies; ``mfac``,
    by gradients of all layers together (Frantar et al. 2021). ``auto`` is ``gram`` with calibration data and magnitude
    without, and keeps for each weight the better of both on data held out. ``fisher`` and ``mfac`` need torch and
    minutes.

    ``budget`` says where the zeros go: ``uniform``; ``global``, one limit for all magnitudes; ``pq``, by each layer's
    PQ index (Diao et al. 2023); ``cfsp``, fewer where a residual block turns its input further (Wang et al. 2024);
    ``second-order``, where the method's predicted loss is least, one price for all layers. ``floor`` is the least share
    of a layer that stays.

    With ``update`` the remaining weights and biases become the least squares solution against the outputs of the
    network as it was, on inputs of the network pruned so far, and an update stays where the error on data held out
    falls. Files hold what is not zero and its places, decoded once when the runtime loads; kernels, and so
    milliseconds, stay those of float32. Zeros that are stored densely (``store=false``, to be quantized first; then
    ``store-sparse`` packs them) make no file smaller.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.9
    gated: ClassVar[bool] = True

    sparsity: float = option(0.5, above=0, below=1)
    """The share of all chosen weights that becomes zero."""
    pattern: str = option(
        "unstructured",
        reads=read_pattern,
        like="unstructured, N:M of fewer than M (such as 2:4) or RxC (such as 4x1)",
    )
    """``unstructured``, ``2:4`` (any N:M), or blocks such as ``4x1``."""
    method: Method = "auto"
    """How weights are ranked."""
    budget: Budget = "second-order"
    """Where the zeros go."""
    floor: float = option(0.05, at_least=0, below=1)
    """The least share of a layer that stays."""
    update: bool = True
    """Fit what remains to the outputs that the layer had."""
    surgeon: bool = False
    """Improve masks by exchanging weights (Combinatorial Brain Surgeon, Yu et al. 2022); not for blocks."""
    gradients: int = option(2048, at_least=1)
    """How many ``fisher`` and ``mfac`` are made of."""
    likelihood: Likelihood = "gaussian"
    """What the loss is: squared relative distance of the outputs, or ``categorical``, KL of logits."""
    bits: int = option(32, at_least=2, at_most=8, also=(32,))
    """Fewer store what remains on a grid of so many bits (2 to 8) with a scale for each output."""
    store: bool = True
    """Store without the zeros where that is smaller."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    def __post_init__(self) -> None:
        """Raise UsageError for an option that means nothing, alone or beside another."""
        super().__post_init__()
        pattern = read_pattern(self.pattern)
        if self.surgeon and (pattern.height > 1 or pattern.width > 1):
            raise UsageError(
                f"option 'surgeon' of pass '{self.name}' is True, expected False with blocks of "
                f"{self.pattern}: it exchanges single weights"
            )
        if pattern.share is None and self.floor > 1 - self.sparsity:
            raise UsageError(
                f"option 'floor' of pass '{self.name}' is {self.floor}, expected at most "
                f"{1 - self.sparsity:g}: sparsity {self.sparsity:g} leaves no more"
            )

    def apply(self, work: Workbench) -> None:
        """Choose masks for all weights together, then rewrite weight by weight."""
        leave_experts(work)
        pattern = read_pattern(self.pattern)
        targets = self._targets(work, pattern)
        if not targets:
            return
        try:
            _check_zeros(targets, self.sparsity if pattern.share is None else pattern.share)
            _Run(self, work, pattern, targets).rewrite()
        except (Mismatch, CannotRun) as reason:
            for target in targets:
                work.decline(target.node, str(reason))

    def _targets(self, work: Workbench, pattern: Pattern) -> list[Target]:
        """Return the weights that the pattern fits; decline the others."""
        chosen: list[Target] = []
        for weight in matched_weights(work):
            target = Target(weight, np.ascontiguousarray(weight.matrix(), np.float32))
            reason = self._obstacle(target, pattern)
            if reason:
                work.decline(target.node, reason)
            else:
                chosen.append(target)
        return chosen

    def _obstacle(self, target: Target, pattern: Pattern) -> str:
        size, name = target.matrix.size, f"'{target.name}'"
        origins = {node.metadata_props.get("whet.from") or "" for node in target.weight.readers}
        if any(origin.startswith(self.name) for origin in origins):
            return f"{name} has lost its share already"
        if size < self.minimum:
            return f"{name} has {size} weights, fewer than {self.minimum}"
        if any(attribute_int(node, "transA", 0) for node in target.weight.products):
            return f"{name} is multiplied with a transposed activation"
        outputs, inputs = target.matrix.shape
        reason = pattern.obstacle((outputs // target.weight.groups, inputs))
        if reason:
            return f"{name}: {reason} (pattern {self.pattern})"
        return ""


def _check_zeros(targets: Sequence[Target], wanted: float) -> None:
    """Raise Mismatch where so many weights are zero already."""
    total = sum(t.matrix.size for t in targets)
    zeros = total - sum(int(np.count_nonzero(t.matrix)) for t in targets)
    if zeros >= (wanted - _ROUNDING) * total:
        raise Mismatch(
            f"{zeros / total:.1%} of these weights are zeros already, {wanted:.1%} are wanted"
        )


class _Run:
    """One run over one model."""

    def __init__(
        self, options: SparsifyWeights, work: Workbench, pattern: Pattern, found: Sequence[Target]
    ) -> None:
        self._pass = options
        self._work = work
        weights = [t.weight for t in found]
        grams = measure_grams(work.model, weights, work.context, work.context.calibration)
        self._targets = [
            dataclasses.replace(t, grams=tuple(grams.get(t.weight.value, ()))) for t in found
        ]
        self._pattern = pattern
        self._left_out = ""
        """Why no update was kept."""
        self._samples = OperandSamples(work, weights)

    def rewrite(self) -> None:
        chosen = choose(self._pass, self._work, self._pattern, self._targets)
        done = self._recovered(chosen)
        for target in self._targets:
            result = done.get(target.name)
            matrix = chosen.weights[target.name] if result is None else result.matrix
            try:
                form = form_of(target, matrix, self._pass.bits, store=self._pass.store)
                self._propose(target, form, chosen.how[target.name] + self._left_out, result)
            except Mismatch as reason:
                self._work.decline(target.node, str(reason))

    def _recovered(self, chosen: Chosen) -> Mapping[str, Recovered]:
        """Return what updates by layer make of the weights; nothing where they move the model's outputs away."""
        work = self._work
        if not self._pass.update or not work.context.calibration:
            return {}
        original = work.model.clone()
        pruned = with_weights(original, self._targets, chosen.weights)
        judge = OutputError(original, work.context, _JUDGES)
        before = judge.of(onnx_ir.to_proto(pruned))
        found = recover(original, pruned, self._targets, chosen.weights, chosen.masks, work.context)
        after = judge.of(onnx_ir.to_proto(pruned))
        if after < before:
            return found
        self._left_out = f", not updated: outputs' error {before:.2g}, {after:.2g} with updates"
        return {}

    def _propose(
        self,
        target: Target,
        form: Form,
        how: str,
        result: Recovered | None,
    ) -> None:
        """Let all readers read what is left of the weight."""
        work, weight = self._work, target.weight
        readers = [node for node in work.graph if node in set(weight.readers)]
        damage = Damage(
            site=target.node.name or target.node.op_type,
            format=f"{1 - form.share:.0%} zeros, {_told(how, result)}{form.told}",
            error=0.0,
            bytes_before=4 * target.matrix.size,
            bytes_after=form.nbytes,
        )
        bias = None if result is None else result.bias

        def spelled(build: Builder) -> onnx_ir.Value:
            return spell_form(build, form, target, work.opset)

        replace_weight(work, weight, readers, spelled, damage, self._samples, bias)


def _told(how: str, result: Recovered | None) -> str:
    if result is None:
        return how
    if not result.kept:
        return f"{how}, not updated: squared error {result.before:.2g}"
    return f"{how}, updated: squared error {result.before:.2g} -> {result.after:.2g}"
