"""Weights in 8, 4 or 2 bits, activations as they are: products and lookups of embeddings."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import Sampler, first_samples, observed_shapes
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, is_op
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.approximation import Blocks
from whet.passes.quantization.block_forms import (
    DECODED,
    EXACT_FORMS,
    FORMS,
    INTEGERS,
    BlockPrices,
    Form,
    Kept,
)
from whet.passes.quantization.block_storage import LARGEST_PACKED, kernel_size
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.learned_rounding import learn
from whet.passes.quantization.weight_plan import Offer, Plan, choose
from whet.passes.quantization.weight_rounding import Grams, Method, Rounding
from whet.passes.quantization.weight_sites import Reader, Table, read, tables
from whet.passes.quantization.weight_stages import in_order, stages
from whet.passes.workbench import Workbench

__all__ = ["QuantizeWeights"]

_AUTO = (32, 64, 128)
_TOLERANCE = {8: 0.1, 4: 0.35, 2: 0.8}


@dataclasses.dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store weights of MatMul, Gemm and embeddings as ``w = (code - zero) * scale``, with a scale per block of inputs.

    Codes are chosen by rounding to the nearest with the clipping of least squares, or, with calibration data, by GPTQ
    (Frantar et al., 2022) and a local search; of the two the better one on held-out data is kept for each weight. Each
    place is executed the way that was measured to be fastest: on packed codes (MatMulNBits, GatherBlockQuantized; the
    accuracy level, too, is measured), decoded to float32 when the model is loaded, or decoded to int8 then and
    multiplied with activations that are quantized while the model runs. No place gets slower than float32, because an
    ordinary weight in memory is one of the ways. A weight that products and lookups share is one decision.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True

    bits: Literal["8", "4", "2"] = "4"
    """Bits of a code."""
    block: Literal["auto", "16", "32", "64", "128", "256"] = "auto"
    """Inputs that share a scale; ``auto`` takes 32 unless larger blocks are clearly faster, for ``size`` 128."""
    method: Method = "auto"
    """``auto`` is GPTQ where there are calibration data; ``adaround`` learns rounding through the twin (needs torch and
    minutes). Both are kept only where they are better than the nearest on data held out."""
    symmetric: Literal["auto", "true", "false"] = "auto"
    """Whether there are no zero points; ``auto`` has them for two bits."""
    prefer: Literal["speed", "size"] = "speed"
    """``size`` takes the largest blocks, and leaves codes packed in memory where that costs next to nothing."""
    compute: Literal["auto", "float"] = "auto"
    """``float`` never quantizes activations."""
    embeddings: bool = True
    """Store tables that Gather looks up rows of, too."""
    sequential: bool = False
    """Measure the inputs of each weight for GPTQ behind the weights that are quantized already: one run over the
    calibration data for every depth of the network."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    @property
    def tolerance(self) -> float:
        """Return the largest change of an output, as a share of its norm, by the bits."""
        return _TOLERANCE[int(self.bits)]

    def apply(self, work: Workbench) -> None:
        """Plan every weight, then rewrite its readers in the order of the graph."""
        leave_experts(work)
        _Run(self, work).visit()


@dataclasses.dataclass
class _Planned:
    """One weight and what becomes of it."""

    table: Table
    plan: Plan
    times: Mapping[onnx_ir.Node, Mapping[str, float]]
    refused: bool = False
    changed: bool = False
    kept: dict[tuple[bool, float], tuple[str, Kept]] = dataclasses.field(
        default_factory=dict[tuple[bool, float], tuple[str, Kept]]
    )
    """Layout -> how it was rounded, and the blocks."""

    def form(self, reader: Reader) -> Form:
        """Return how a reader is executed."""
        return self.plan.forms[self.table.readers.index(reader)]


class _Run:
    """One run over one model."""

    def __init__(self, step: QuantizeWeights, work: Workbench) -> None:
        self._pass = step
        self._work = work
        bits = int(step.bits)
        symmetric = bits > 2 if step.symmetric == "auto" else step.symmetric == "true"
        self._rounding = Rounding(bits, symmetric, step.method)
        self._sizes = _AUTO if step.block == "auto" else (int(step.block),)
        self._codes: dict[onnx_ir.Value, tuple[onnx_ir.Value, ...]] = {}
        """Activation -> its integers, step and zero, made once for all that read them."""
        self._learned: Mapping[str, Blocks] = {}
        """Name of a product -> what AdaRound makes of its weight."""

    def visit(self) -> None:
        """Rewrite what can be rewritten, stage by stage, in the order of the graph."""
        kinds = ("MatMul", "Gemm", *(["Gather"] if self._pass.embeddings else []))
        found = [r for node in self._work.nodes(*kinds) if (r := self._read(node))]
        sample = self._sampler([reader.operand for reader in found])
        planned = self._plan([t for t in tables(found) if self._is_free(t)])
        try:
            self._learned = self._learn(planned)
        except Mismatch as reason:
            for reader in found:
                self._work.decline(reader.node, str(reason))
            return
        for stage in stages(self._work.graph, planned, in_sequence=self._pass.sequential):
            grams = self._grams(stage)
            for reader, whole in in_order(self._work.graph, stage):
                self._rewrite(reader, whole, grams, sample)

    def _read(self, node: onnx_ir.Node) -> Reader | None:
        try:
            reader = read(node)
        except Mismatch as reason:
            if not is_op(node, "Gather"):
                self._work.coverage.matched += 1
                self._work.decline(node, str(reason))
            return None
        self._work.coverage.matched += 1
        count = math.prod(reader.sizes)
        if count < self._pass.minimum:
            self._work.decline(node, f"{count} weights, fewer than {self._pass.minimum}")
            return None
        return reader

    def _is_free(self, table: Table) -> bool:
        """Tell whether the float weight goes when its readers are rewritten; decline them otherwise."""
        reason = table.obstacle()
        for reader in table.readers if reason else ():
            self._work.decline(reader.node, reason)
        return not reason

    def _sampler(self, names: list[str]) -> Sampler | None:
        """Return a source of real operands, from the last batch, which nothing is fit to."""
        context = self._work.context
        if not context.calibration or not names:
            return None
        feeds = first_samples(self._work.model, context.calibration[-1])
        return Sampler(self._work.model, names, feeds, context.threads)

    def _plan(self, found: list[Table]) -> list[_Planned]:
        readers = [reader for table in found for reader in table.readers]
        times = self._times(readers)
        slack = sum(times[r.node].get(FLOAT, 0.0) for r in readers if r.linear is not None)
        exact = self._pass.compute == "float"
        planned: list[_Planned] = []
        for table in found:
            sizes = self._block_sizes(table.readers)
            offers = [
                Offer(r.linear is None, times[r.node], tuple(s for s in sizes if _packs(r, s)))
                for r in table.readers
            ]
            plan = choose(offers, sizes, self._pass.prefer, exact=exact, slack=slack)
            planned.append(_Planned(table, plan, times))
        return planned

    def _block_sizes(self, readers: Sequence[Reader]) -> list[int]:
        """Return the blocks to choose from, less those that are all the same for short rows."""
        longest = max(reader.sizes[1] for reader in readers)
        return sorted({kernel_size(size, longest) for size in self._sizes})

    def _times(self, readers: Sequence[Reader]) -> dict[onnx_ir.Node, Mapping[str, float]]:
        """Return milliseconds of every reader by form; nothing where nothing may be measured."""
        context = self._work.context
        if context.prices is None:
            return {reader.node: {} for reader in readers}
        prices = BlockPrices(
            context.prices, self._work.opset, self._rounding.bits, self._rounding.symmetric
        )
        operands = [reader.current for reader in readers]
        shapes = observed_shapes(self._work.model, operands, context.bindings, context.threads)
        return {r.node: self._price(r, shapes.get(r.operand), prices) for r in readers}

    def _price(
        self, reader: Reader, shape: tuple[int, ...] | None, prices: BlockPrices
    ) -> Mapping[str, float]:
        if shape is None or (not shape and reader.linear is not None):
            return {}
        sizes = [size for size in self._block_sizes([reader]) if _packs(reader, size)]
        if reader.linear is None:
            return prices.lookup(shape, reader.sizes, sizes)
        forms = EXACT_FORMS if self._pass.compute == "float" else FORMS
        return prices.product(math.prod(shape[:-1]), reader.sizes, sizes, forms)

    def _learn(self, planned: Sequence[_Planned]) -> Mapping[str, Blocks]:
        """Learn rounding for weights that one product alone reads; raises Mismatch where AdaRound cannot work."""
        if self._pass.method != "adaround":
            return {}
        alone = {p.table.readers[0]: p for p in planned if len(p.table.readers) == 1}
        sizes = {r: p.plan.size for r, p in alone.items() if r.linear and r.layout[1] == 1}
        names = dict.fromkeys(reader.operand for reader in sizes)
        grams = Grams.measure(self._work.model, list(names), self._work.context)

        def start(reader: Reader, size: int) -> Callable[[Array], Blocks]:
            return lambda matrix: self._rounding.nearest(matrix, size, grams.get(reader.operand))

        starts = {reader.node.name or "": start(reader, size) for reader, size in sizes.items()}
        return learn(self._work.model, starts, self._work.context)

    def _grams(self, stage: Sequence[_Planned]) -> Mapping[str, Grams]:
        """Return the second moments of what the products of a stage read now."""
        if self._pass.method == "nearest":
            return {}
        readers = [r for p in stage if not p.table.is_tied for r in p.table.readers]
        names = dict.fromkeys(r.current.name or "" for r in readers if r.linear is not None)
        return Grams.measure(self._work.model, list(names), self._work.context)

    def _rewrite(
        self,
        reader: Reader,
        planned: _Planned,
        grams: Mapping[str, Grams],
        sample: Sampler | None,
    ) -> None:
        if planned.refused:
            self._work.decline(
                reader.node, "another reader of the weight has to keep it in float32"
            )
            return
        try:
            method, kept = self._kept(reader, planned, grams)
        except Mismatch as reason:
            self._work.decline(reader.node, str(reason))
            planned.refused = True
            return
        self._propose(reader, planned, method, kept, _sampled(sample, reader))

    def _kept(
        self, reader: Reader, planned: _Planned, grams: Mapping[str, Grams]
    ) -> tuple[str, Kept]:
        """Return the rounded weight, a copy that is thrown away when the proposal is refused."""
        if reader.layout not in planned.kept:
            alike = [r for r in planned.table.readers if r.layout == reader.layout]
            seen = [grams[n] for r in alike if (n := r.current.name or "") in grams]
            try:
                method, blocks = self._rounding(
                    reader.matrix(),
                    planned.plan.size,
                    Grams.mean(seen),
                    self._learned.get(reader.node.name or ""),
                )
            except ValueError as error:
                raise Mismatch(f"the weight cannot be quantized: {error}") from error
            kept = Kept(
                blocks,
                reader.weight.name or "weight",
                self._work.opset,
                self._work.context.device.saturates,
            )
            planned.kept[reader.layout] = method, kept
        method, kept = planned.kept[reader.layout]
        return method, dataclasses.replace(kept)

    def _propose(
        self,
        reader: Reader,
        planned: _Planned,
        method: str,
        kept: Kept,
        samples: Mapping[str, Array],
    ) -> None:
        form, build = planned.form(reader), self._work.builder(reader.node)
        x, there = reader.current, kept.decoders
        codes = self._codes.get(x, ())
        if form == INTEGERS and not codes:
            codes = build.ops("DynamicQuantizeLinear", [x], 3)
        if reader.linear is None:
            result = kept.lookup(build, x, form)
        else:
            result = _shifted(build, kept.product(build, x, form, codes), reader)
        between = () if reader.between is None else (reader.between,)
        proposal = Proposal(
            (reader.node, *between, *there),
            ((reader.node.outputs[0], result),),
            tuple(build.nodes),
            tuple(build.initializers),
        )
        damage = self._damage(reader, planned, f"{method}, {form}", build)
        if not self._work.propose(proposal, damage, samples):
            planned.refused = True
            return
        planned.changed = True
        planned.kept[reader.layout] = method, kept
        if form == INTEGERS:
            self._codes[x] = codes

    def _damage(self, reader: Reader, planned: _Planned, how: str, build: Builder) -> Damage:
        assert reader.weight.const_value is not None
        times, form = planned.times[reader.node], planned.form(reader)
        like_before = form == DECODED and reader.linear is None
        return Damage(
            site=reader.node.name or reader.node.op_type,
            format=f"int{self._rounding.bits}/{planned.plan.size} {how}",
            error=0.0,
            bytes_before=0 if planned.changed else reader.weight.const_value.nbytes,
            bytes_after=sum(v.const_value.nbytes for v in build.initializers if v.const_value),
            ms_before=times.get(FLOAT),
            ms_after=times.get(FLOAT if like_before else form.key(planned.plan.size)),
        )


def _packs(reader: Reader, size: int) -> bool:
    """Tell whether there is a kernel for packed codes."""
    if reader.linear is None:
        return reader.sizes[1] % size == 0
    return size <= LARGEST_PACKED


def _shifted(build: Builder, product: onnx_ir.Value, reader: Reader) -> onnx_ir.Value:
    """Add the bias of a Gemm."""
    assert reader.linear is not None
    bias, beta = reader.linear.bias, reader.linear.beta
    if bias is None:
        return product
    if beta != 1:
        bias = build.op("Mul", bias, build.constant(np.asarray(beta, np.float32)))
    return build.op("Add", product, bias)


def _sampled(sample: Sampler | None, reader: Reader) -> dict[str, Array]:
    """Return real data for the operand, under its present name."""
    if sample is None:
        return {}
    try:
        found = sample(reader.operand)
    except CannotRun:
        return {}
    return {} if found is None else {reader.current.name or "": found}
