"""Set weights to zero where the loss feels it least, let the others make up for it, and store what is left."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import Sampler, first_samples
from whet.analysis.output_damage import OutputError
from whet.errors import Mismatch, UsageError
from whet.ir.execute import CannotRun
from whet.ir.values import Array, attribute_int
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.approximation import Floats
from whet.passes.quantization.layers import Weight, find_weights, measure_grams
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

    sparsity: float = 0.5
    """The share of all chosen weights that becomes zero."""
    pattern: str = "unstructured"
    """``unstructured``, ``2:4`` (any N:M), or blocks such as ``4x1``."""
    method: Method = "auto"
    """How weights are ranked."""
    budget: Budget = "second-order"
    """Where the zeros go."""
    floor: float = 0.05
    """The least share of a layer that stays."""
    update: bool = True
    """Fit what remains to the outputs that the layer had."""
    surgeon: bool = False
    """Improve masks by exchanging weights (Combinatorial Brain Surgeon, Yu et al. 2022); not for blocks."""
    gradients: int = 2048
    """How many ``fisher`` and ``mfac`` are made of."""
    likelihood: Likelihood = "gaussian"
    """What the loss is: squared relative distance of the outputs, or ``categorical``, KL of logits."""
    bits: int = 32
    """Fewer store what remains on a grid of so many bits (2 to 8) with a scale for each output."""
    store: bool = True
    """Store without the zeros where that is smaller."""
    minimum: int = 1024
    """Weights of fewer elements stay as they are."""

    def apply(self, work: Workbench) -> None:
        """Choose masks for all weights together, then rewrite weight by weight."""
        pattern = self.checked()
        targets = self._targets(work, pattern)
        if not targets:
            return
        try:
            _check_zeros(targets, self.sparsity if pattern.share is None else pattern.share)
            _Run(self, work, pattern, targets).rewrite()
        except (Mismatch, CannotRun) as reason:
            for target in targets:
                work.decline(target.node, str(reason))

    def checked(self) -> Pattern:
        """Return the pattern; raises UsageError for an option that means nothing."""
        try:
            pattern = read_pattern(self.pattern)
        except ValueError as error:
            raise UsageError(f"pass '{self.name}': {error}") from error
        for name, value in (("sparsity", self.sparsity), ("floor", self.floor)):
            if not 0 < value < 1 and not (name == "floor" and value == 0):
                raise UsageError(
                    f"pass '{self.name}': {name} is {value}, between 0 and 1 is possible"
                )
        if self.bits != 32 and not 2 <= self.bits <= 8:
            raise UsageError(f"pass '{self.name}': bits is {self.bits}, 2 to 8 or 32 are possible")
        if self.surgeon and (pattern.height > 1 or pattern.width > 1):
            raise UsageError(
                f"pass '{self.name}': surgeon exchanges single weights, not {self.pattern}"
            )
        if pattern.share is None and self.floor > 1 - self.sparsity:
            raise UsageError(
                f"pass '{self.name}': floor keeps {self.floor:.0%} of every layer, sparsity leaves"
                f" {1 - self.sparsity:.0%} of all"
            )
        return pattern

    def _targets(self, work: Workbench, pattern: Pattern) -> list[Target]:
        """Return the weights that the pattern fits; decline the others."""
        found, refused = find_weights(work.nodes())
        work.coverage.matched += len(found) + len(refused)
        for node, reason in refused.items():
            work.decline(node, reason)
        chosen: list[Target] = []
        for weight in found:
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
        self._names = {
            node: [v.name or "" for v in _operands(node)] for w in weights for node in w.readers
        }
        """What the readers' operands were called before anything was rewritten."""

    def rewrite(self) -> None:
        chosen = choose(self._pass, self._work, self._pattern, self._targets)
        done = self._recovered(chosen)
        sample = self._sampler()
        for target in self._targets:
            result = done.get(target.name)
            matrix = chosen.weights[target.name] if result is None else result.matrix
            try:
                form = form_of(target, matrix, self._pass.bits, store=self._pass.store)
                self._propose(
                    target, form, chosen.how[target.name] + self._left_out, result, sample
                )
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

    def _sampler(self) -> Sampler | None:
        context = self._work.context
        if not context.judge:
            return None
        names = list(dict.fromkeys(name for names in self._names.values() for name in names))
        feeds = first_samples(self._work.model, context.judge[0])
        return Sampler(self._work.model, names, feeds, context.threads)

    def _propose(
        self,
        target: Target,
        form: Form,
        how: str,
        result: Recovered | None,
        sample: Sampler | None,
    ) -> None:
        """Replace the weight for the first reader; once that is proven, let the others read the same."""
        work, weight = self._work, target.weight
        readers = [node for node in work.graph if node in set(weight.readers)]
        build = work.builder(readers[0])
        try:
            value = spell_form(build, form, target, work.opset)
        except Mismatch:
            Proposal(weight.readers, (), tuple(build.nodes)).discard()
            raise
        damage = Damage(
            site=target.node.name or target.node.op_type,
            format=f"{1 - form.share:.0%} zeros, {_told(how, result)}{form.told}",
            error=0.0,
            bytes_before=4 * target.matrix.size,
            bytes_after=form.nbytes,
        )
        bias = None if result is None else result.bias
        first = _reading(readers[0], weight, value, build, bias)
        if not work.propose(first, damage, self._samples(readers[0], sample)):
            return
        for node in readers[1:]:
            other = _reading(node, weight, value, work.builder(node), None)
            work.accept(other, "decoded for an earlier reader")

    def _samples(self, node: onnx_ir.Node, sample: Sampler | None) -> dict[str, Array]:
        """Return real data for the operands, under their present names."""
        found: dict[str, Array] = {}
        if sample is None:
            return found
        for value, name in zip(_operands(node), self._names[node], strict=True):
            try:
                array = sample(name)
            except CannotRun:
                return {}
            if array is not None:
                found[value.name or ""] = array
        return found


def _told(how: str, result: Recovered | None) -> str:
    if result is None:
        return how
    if not result.kept:
        return f"{how}, not updated: squared error {result.before:.2g}"
    return f"{how}, updated: squared error {result.before:.2g} -> {result.after:.2g}"


def _reading(
    node: onnx_ir.Node,
    weight: Weight,
    new: onnx_ir.Value,
    build: Builder,
    bias: Floats | Array | None,
) -> Proposal:
    """Return the proposal that the node reads another weight, and another bias where there is one."""
    inputs = [new if v is weight.value else v for v in node.inputs]
    if bias is not None:
        inputs = [*inputs[:2], build.constant(bias)]
    result = build.op(node.op_type, *inputs, attributes=dict(node.attributes))
    nodes, weights = tuple(build.nodes), tuple(build.initializers)
    return Proposal((node,), ((node.outputs[0], result),), nodes, weights)


def _operands(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """Return what a reader computes with besides constants."""
    return [v for v in node.inputs if v is not None and v.const_value is None]
