"""Weights of few bits as indices into tables, with outliers and low-rank repair, packed in the file."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.fisher import Fisher
from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.experts.leaving import leave_experts
from whet.passes.option import option
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Blocks,
    Codebook,
    Layer,
    LowRank,
)
from whet.passes.quantization.algorithms.codebooks import half_tables, lean, refit, squeeze
from whet.passes.quantization.algorithms.eora import beside, paying_rank, repairing_path
from whet.passes.quantization.algorithms.outliers import keep_outliers
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.layers import Weight, layers_of, measure_grams
from whet.passes.quantization.storage import spell
from whet.passes.quantization.weight_readers import (
    OperandSamples,
    matched_weights,
    replace_weight,
)
from whet.passes.workbench import Workbench

__all__ = ["QuantizeCodebooks"]

_SPELLING = 700
"""Bytes that nodes and names of a decoding take in the file."""


@dataclasses.dataclass(frozen=True)
class QuantizeCodebooks(Pass):
    """Replace the weights of MatMul, Gemm and Conv by indices of ``bits`` bits into a table for each output channel.

    ``w[o, i] ~ table[o, code[o, i]]``. Method ``squeeze`` makes the table by k-means weighted with the Fisher
    information or the Gram matrix of the inputs (SqueezeLLM, Kim et al. 2023), ``lean`` by k-means weighted with
    1 / diag(H⁻¹) and error feedback (LeanQuant, Zhang & Shrivastava 2024), ``auto`` takes what loses least. Both are
    compared, on the samples that calibration holds out, with rounding to the nearest at the same bits; rounding stays
    where a table gains less than its bytes would as further bits. Files hold packed bits, which the runtime decodes
    once, when it loads: kernels, and so milliseconds, stay those of float32.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    bound: ClassVar[float | None] = 0.6
    gated: ClassVar[bool] = True

    bits: int = option(3, at_least=2, at_most=6)
    """Of the index of an entry."""
    method: Literal["auto", "lean", "squeeze"] = "auto"
    """How tables are made."""
    outliers: float = option(0.0, at_least=0, at_most=0.5)
    """Share of the weights that stay in full precision, as places and numbers (SpQR, Dettmers et al. 2023)."""
    rank: int = option(0, at_least=0)
    """Rank of a path in float16 that repairs the outputs where that helps (EoRA, Liu et al. 2024)."""
    fisher: bool = False
    """Let ``squeeze`` weigh by the gradients of the model's own likelihood; needs torch."""
    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    def apply(self, work: Workbench) -> None:
        """Rewrite weight by weight."""
        leave_experts(work)
        chosen = [weight for weight in matched_weights(work) if self._large(weight, work)]
        if chosen:
            _Run(self, work, chosen).rewrite()

    def _large(self, weight: Weight, work: Workbench) -> bool:
        size = math.prod(weight.shape)
        if size < self.minimum:
            work.decline(weight.products[0], f"{size} weights, fewer than {self.minimum}")
        return size >= self.minimum


class _Run:
    """One run over one model."""

    def __init__(
        self, options: QuantizeCodebooks, work: Workbench, weights: Sequence[Weight]
    ) -> None:
        self._pass = options
        self._work = work
        self._weights = weights
        context = work.context
        self._fit = measure_grams(work.model, weights, context, context.calibration)
        self._judge = measure_grams(work.model, weights, context, context.held_out)
        self._fisher = self._gradients()
        self._samples = OperandSamples(work, weights)

    def _gradients(self) -> Mapping[str, Array]:
        if not self._pass.fisher:
            return {}
        names = tuple(w.value.name or "" for w in self._weights)
        return self._work.analyses.get(Fisher(names))

    def rewrite(self) -> None:
        for weight in self._weights:
            try:
                name, approximation = self._approximate(weight)
                self._propose(weight, name, approximation)
            except Mismatch as reason:
                self._work.decline(weight.products[0], str(reason))

    def _approximate(self, weight: Weight) -> tuple[str, Approximation]:
        """Return the best approximation and what it is called; raises Mismatch where none is smaller."""
        layers = self._layers(weight)
        try:
            whole = [_best(layer, self._methods(layer)) for layer in layers]
        except ValueError as error:
            raise Mismatch(f"the weight cannot be quantized: {error}") from error
        name, parts = _common(whole)
        approximation = _stacked(parts)
        if len(layers) == 1:
            name, approximation = self._repaired(layers[0], name, approximation)
        before = 4 * math.prod(weight.shape)
        if approximation.nbytes + _SPELLING >= before:
            raise Mismatch(
                f"{name} takes {approximation.nbytes} bytes and its decoding about {_SPELLING}, the weight {before}"
            )
        return name, approximation

    def _layers(self, weight: Weight) -> list[Layer]:
        layers = layers_of(weight, self._fit, self._judge)
        found = self._fisher.get(weight.value.name or "")
        if found is None:
            return layers
        parts = np.split(np.asarray(weight.arranged(found), np.float64), weight.groups)
        return [dataclasses.replace(a, fisher=b) for a, b in zip(layers, parts, strict=True)]

    def _methods(self, layer: Layer) -> dict[str, Approximation]:
        """Return rounding to the nearest and what the options ask for."""
        bits, method = self._pass.bits, self._pass.method
        makers: dict[str, Callable[[Layer], Approximation]] = {}
        if method in ("auto", "squeeze") or layer.gram is None:
            makers["squeeze"] = lambda rest: half_tables(_squeezed(rest, bits))
        if method in ("auto", "lean") and layer.gram is not None:
            makers["lean"] = lambda rest: half_tables(refit(rest, lean(rest, bits)))
        found: dict[str, Approximation] = {"rtn": round_to_nearest(layer, bits, symmetric=False)}
        found.update((name, make(layer)) for name, make in makers.items())
        if self._pass.outliers:
            share = self._pass.outliers
            found.update(
                (f"{name} + outliers", keep_outliers(layer, share, make))
                for name, make in makers.items()
            )
        return found

    def _repaired(
        self, layer: Layer, name: str, approximation: Approximation
    ) -> tuple[str, Approximation]:
        """Add a low-rank path where the error on data that nothing was fitted to gets smaller."""
        if not self._pass.rank:
            return name, approximation
        path = repairing_path(layer, approximation.values(), self._pass.rank, half=True)

        def error(candidate: LowRank | None) -> float:
            return layer.error(beside(approximation, candidate))

        best = paying_rank(path, error, None)
        if best is None:
            return name, approximation
        return f"{name} + rank {len(best.right)}", beside(approximation, best)

    def _propose(self, weight: Weight, name: str, approximation: Approximation) -> None:
        """Let all readers that were chosen read what the approximation decodes to."""
        readers = [node for node in self._work.nodes() if node in set(weight.readers)]
        damage = Damage(
            site=readers[0].name or readers[0].op_type,
            format=f"{self._pass.bits} bits, {name}",
            error=0.0,
            bytes_before=4 * math.prod(weight.shape),
            bytes_after=approximation.nbytes,
        )

        def spelled(build: Builder) -> onnx_ir.Value:
            return spell(
                build,
                approximation,
                weight.value.name or "weight",
                shape=None if weight.transposed else weight.shape,
                transposed=weight.transposed,
                opset=self._work.opset,
            )

        replace_weight(self._work, weight, readers, spelled, damage, self._samples)


def _squeezed(layer: Layer, bits: int) -> Codebook:
    book = squeeze(layer, bits)
    return book if layer.fisher is not None else refit(layer, book)


def _best(layer: Layer, found: Mapping[str, Approximation]) -> tuple[str, Approximation]:
    """Return the smallest error for its bytes: a further bit for every weight would quarter the error."""

    def score(name: str) -> float:
        bits = 8 * found[name].nbytes / layer.weights.size
        return float(layer.error(found[name]) * 4.0**bits)

    name = min(found, key=score)
    return name, found[name]


def _common(parts: Sequence[tuple[str, Approximation]]) -> tuple[str, list[Approximation]]:
    """Return the parts of all groups in one form."""
    names = {name for name, _ in parts}
    if len({type(part) for _, part in parts}) > 1:
        raise Mismatch(f"groups would take different forms: {sorted(names)}")
    return "/".join(sorted(names)), [part for _, part in parts]


def _stacked(parts: Sequence[Approximation]) -> Approximation:
    """Return the approximations of all groups as one matrix."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, Codebook):
        books = [part for part in parts if isinstance(part, Codebook)]
        codes = np.concatenate([book.codes for book in books])
        return Codebook(codes, np.concatenate([book.table for book in books]), first.bits)
    if isinstance(first, Blocks):
        blocks = [part for part in parts if isinstance(part, Blocks)]
        zeros = [part.zeros for part in blocks if part.zeros is not None]
        return Blocks(
            np.concatenate([part.codes for part in blocks]),
            np.concatenate([part.scales for part in blocks]),
            np.concatenate(zeros) if zeros else None,
            first.bits,
            first.size,
        )
    raise Mismatch("a grouped convolution has no place for outliers")
