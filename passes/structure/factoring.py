"""What factoring products and factoring convolutions have in common: data, ranks, prices, proof."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import onnx_ir

from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.layers import Weight, layers_of, measure_grams
from whet.passes.quantization.weight_readers import OperandSamples, matched_weights
from whet.passes.spelling_prices import SeenShapes, SpellingPrices
from whet.passes.structure.algorithms.factorization import Factored, Family, factor
from whet.passes.workbench import Workbench

__all__ = ["Factoring", "Form", "Spell", "Weights"]

Weights = Callable[[Builder, str, Array], onnx_ir.Value]
"""Adds a factor to the graph the first time, and hands out the same value later: (builder, name, array)."""
Spell = Callable[[Builder, onnx_ir.Node, Factored, Weights], onnx_ir.Value]
"""Spells a reader of the weight on factors."""
_STEPS = {64: 8, 16: 4}
"""Ranks from the first number on are multiples of the second: kernels work on vectors."""
_WORTH = 0.95
"""Factors must take less than this share of the time."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to factor a weight."""

    name: str
    family: Callable[[Layer, float], Family]
    per_rank: int
    """Numbers that a rank takes in both factors, of all groups."""
    spell: Spell


@dataclasses.dataclass(frozen=True)
class Factoring(Pass):
    """Replace weights by factors; subclasses say in which forms."""

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.8
    gated: ClassVar[bool] = True
    op_types: ClassVar[tuple[str, ...]] = ()

    energy: float = option(0.99, at_least=0, at_most=1)
    """Share of the energy of a layer's outputs that the smallest rank must keep, on data held out."""
    ratio: float = option(0.0, at_least=0, at_most=1)
    """Share of the bytes that the factors may take; overrules ``energy``."""
    rank: int = option(0, at_least=0)
    """The rank; overrules both."""
    prefer: Literal["speed", "size"] = "speed"
    """Whether factors must also be measured to be faster where prices exist, or only smaller."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    @abstractmethod
    def forms(self, weight: Weight) -> Sequence[Form]:
        """Return the forms to try; raises Mismatch where there are none."""

    def apply(self, work: Workbench) -> None:
        """Factor weight by weight."""
        leave_experts(work)
        found = matched_weights(work, *self.op_types)
        chosen = [weight for weight in found if self._suits(weight, work)]
        if chosen:
            _Run(self, work, chosen).rewrite()

    def _suits(self, weight: Weight, work: Workbench) -> bool:
        try:
            self._check(weight, work)
        except Mismatch as reason:
            work.decline((weight.products or weight.readers)[0], str(reason))
            return False
        return True

    def _check(self, weight: Weight, work: Workbench) -> None:
        size = math.prod(weight.shape)
        if size < self.minimum:
            raise Mismatch(f"{size} weights, fewer than {self.minimum}")
        chosen = set(work.nodes(*self.op_types))
        for node in weight.readers:
            if node not in chosen:
                raise Mismatch(
                    f"the weight stays in the file: {node.op_type} '{node.name}' reads it too"
                )
            if (node.metadata_props.get("whet.from") or "").startswith("factor-"):
                raise Mismatch("it is a factor already")
        self.forms(weight)


class _Run:
    """One run over one model."""

    def __init__(self, options: Factoring, work: Workbench, weights: Sequence[Weight]) -> None:
        self._pass = options
        self._work = work
        self._weights = weights
        context = work.context
        self._fit = measure_grams(work.model, weights, context, context.calibration)
        self._judge = measure_grams(work.model, weights, context, context.held_out)
        readers = [node for weight in weights for node in weight.readers]
        self._shapes = SeenShapes(work, [v for n in readers if (v := n.inputs[0]) is not None])
        self._samples = OperandSamples(work, weights)

    def rewrite(self) -> None:
        for weight in self._weights:
            try:
                self._rewrite(weight)
            except (Mismatch, CannotRun) as reason:
                self._work.decline(weight.products[0], str(reason))

    def _rewrite(self, weight: Weight) -> None:
        """Take the form that loses least of those that are small and fast enough; raises Mismatch without one."""
        layers = layers_of(weight, self._fit, self._judge)
        refused: list[str] = []
        found: list[tuple[Form, Factored]] = []
        for form in self._pass.forms(weight):
            try:
                found.append((form, self._factored(form, weight, layers)))
            except Mismatch as reason:
                refused.append(str(reason))
        fixed = bool(self._pass.rank or self._pass.ratio)
        found.sort(key=lambda one: one[1].error if fixed else one[1].nbytes)
        for form, factors in found:
            try:
                self._propose(weight, form, factors)
            except Mismatch as reason:
                refused.append(str(reason))
            else:
                return
        raise Mismatch("; ".join(dict.fromkeys(refused)))

    def _factored(self, form: Form, weight: Weight, layers: Sequence[Layer]) -> Factored:
        size, options = math.prod(weight.shape), self._pass
        most = (size - 1) // form.per_rank
        if most < 1:
            raise Mismatch(
                f"{form.name}: rank 1 takes {form.per_rank} numbers, the weight has {size}"
            )
        rank = options.rank
        if rank > most:
            raise Mismatch(
                f"{form.name}: rank {rank} takes {4 * rank * form.per_rank:,} bytes, the weight {4 * size:,}"
            )
        if options.ratio and not rank:
            rank = _rounded(max(1, int(options.ratio * size / form.per_rank)), most, up=False)
        if rank:
            return factor(layers, form.family, most, rank=rank)
        found = factor(layers, form.family, most, energy=options.energy)
        if found.error > 1.0 - options.energy:
            raise Mismatch(
                f"{form.name}: rank {most}, the largest that is smaller than the weight, keeps {1 - found.error:.4f} "
                f"of the energy, asked for are {options.energy}"
            )
        rounded = _rounded(found.rank, most, up=True)
        return factor(layers, form.family, most, rank=rounded) if rounded > found.rank else found

    def _propose(self, weight: Weight, form: Form, factors: Factored) -> None:
        """Propose the first reader with proof, then the others; raises Mismatch where it does not pay."""
        known: dict[str, onnx_ir.Value] = {}

        def weights(build: Builder, name: str, array: Array) -> onnx_ir.Value:
            if name not in known:
                known[name] = build.constant(array, f"{weight.value.name or 'weight'}.{name}")
            return known[name]

        proposals = self._proposals(weight, form, factors, weights)
        first = next(proposals)
        label = f"{form.name} of rank {factors.rank}"
        times = self._times(first, label)
        if times is not None and self._pass.prefer == "speed" and times[1] >= times[0] * _WORTH:
            first.discard()
            raise Mismatch(
                f"{label} takes {times[1]:.3g} ms, the weight {times[0]:.3g} ms ({factors.nbytes:,} bytes, "
                f"{4 * math.prod(weight.shape):,} bytes)"
            )
        node = first.old[0]
        row = Damage(
            site=node.name or node.op_type,
            format=label,
            error=0.0,
            bytes_before=4 * math.prod(weight.shape),
            bytes_after=factors.nbytes,
            ms_before=None if times is None else times[0],
            ms_after=None if times is None else times[1],
        )
        if self._work.propose(first, row, self._samples.of(node)):
            for other in proposals:
                self._work.accept(other, "factored for an earlier reader")

    def _proposals(
        self, weight: Weight, form: Form, factors: Factored, weights: Weights
    ) -> Iterator[Proposal]:
        readers = set(weight.readers)
        for node in self._work.nodes(*self._pass.op_types):
            if node in readers:
                build = self._work.builder(node)
                made = form.spell(build, node, factors, weights)
                yield Proposal(
                    (node,),
                    ((node.outputs[0], made),),
                    tuple(build.nodes),
                    tuple(build.initializers),
                )

    def _times(self, proposal: Proposal, name: str) -> tuple[float, float] | None:
        """Return the milliseconds of the operator and of the factors, where they can be measured."""
        if self._work.context.prices is None:
            return None
        try:
            return SpellingPrices(self._work, self._shapes).measure(proposal, name)
        except Mismatch:
            proposal.discard()
            raise


def _rounded(rank: int, most: int, *, up: bool) -> int:
    """Return a multiple of the kernels' step, as far as that is smaller than the weight."""
    step = next((step for least, step in _STEPS.items() if rank >= least), 1)
    return min(-(-rank // step) * step if up else rank // step * step, most)
