"""Static bias tables of attention as low-rank factors."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import Sampler, first_samples, observed_shapes
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import dimensions, static_shape
from whet.passes.attention.bias_plan import BiasPlan, plan_bias
from whet.passes.attention.bias_terms import Summand
from whet.passes.attention.break_even import Payoff, check_pays
from whet.passes.attention.call import AttentionCall, AttentionSizes, read_attention
from whet.passes.attention.factors import append_factors
from whet.passes.attention.low_rank import Real
from whet.passes.attention.mask_patterns import pattern_factors
from whet.passes.attention.masks import ABSORBS
from whet.passes.attention.table_rank import (
    Request,
    TableFactors,
    energy_lost,
    factor_table,
)
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["FactorBiasTable"]


@dataclasses.dataclass(frozen=True)
class FactorBiasTable(Pass):
    """Replace ``softmax(scale q k' + B) v`` with constant B by ``softmax([left, scale q] [right, k]') v``.

    ``left right'`` is the truncated singular value decomposition of B without its row means, which no softmax sees, per
    head (FlashBias, 2025). The rank is the smallest that keeps ``energy`` of the squared singular values and at which
    the output changes by at most ``error``. Masks in B get exact factors of their own, become causal, or stay masks. A
    place is left alone where factors were not measured to be faster.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    explains: ClassVar[bool] = True
    bound: ClassVar[float | None] = 1e-2
    gated: ClassVar[bool] = True

    energy: float = option(0.995, at_least=0, at_most=1)
    """The share of the energy that is kept; 1 keeps all that float32 can tell."""
    rank: int = option(0, at_least=0)
    """The rank, if neither energy nor error shall decide."""
    error: float = option(1e-2, above=0)
    """The largest ``||y' - y|| / ||y||`` of the output of a place."""
    when: Literal["measured", "always"] = "measured"
    """``always`` also factors where it was not measured to pay."""
    max_length: int = option(0, at_least=0)
    """The greatest length, for tables that are computed for any; the result refuses longer inputs."""

    @property
    def tolerance(self) -> float:
        """Return the bound of one place; with all of the energy it is that of rounding."""
        return Fidelity.ROUNDING.tolerance if self.energy >= 1 and not self.rank else self.error

    def apply(self, work: Workbench) -> None:
        """Visit every Attention that has a bias, in the order of the graph."""
        _Run(self, work).visit()


@dataclasses.dataclass(frozen=True)
class _Pair:
    """``left [period, heads or 1, n or 1, r]`` and ``right [period, key heads or 1, m, r]``."""

    left: Real
    right: Real

    @property
    def rank(self) -> int:
        return int(self.left.shape[-1])

    @property
    def bytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    @property
    def key(self) -> tuple[object, ...]:
        digests = [hashlib.sha256(side.tobytes()).digest() for side in (self.left, self.right)]
        return self.left.shape, self.right.shape, *digests


_Weights = tuple[onnx_ir.Value, onnx_ir.Value]


class _Run:
    """One run over one model."""

    def __init__(self, step: FactorBiasTable, work: Workbench) -> None:
        self._step = step
        self._work = work
        request = Request(step.energy, step.rank, step.error, step.when == "always")
        self._factors = TableFactors(request)
        self._known: dict[str, tuple[int, ...]] = {}
        self._weights: dict[object, _Weights] = {}
        """Factors that are in the model: places with the same table share them."""

    def visit(self) -> None:
        calls = [call for node in self._work.nodes("Attention") if (call := self._read(node))]
        names = [v.name or "" for call in calls for v in (call.q, call.k, call.v)]
        sampler = self._sampler(names)
        self._shapes([v for call in calls for v in _operands(call)])
        for call in calls:
            try:
                # An earlier rewrite may have replaced operands: the samples are those of before.
                self._rewrite(read_attention(call.node), self._samples(sampler, call))
            except Mismatch as reason:
                self._work.decline(call.node, str(reason))

    def _read(self, node: onnx_ir.Node) -> AttentionCall | None:
        if len(node.inputs) < 4 or node.inputs[3] is None:
            return None
        self._work.coverage.matched += 1
        try:
            call = read_attention(node)
            _check_form(call)
        except Mismatch as reason:
            self._work.decline(node, str(reason))
            return None
        return call

    def _sampler(self, names: list[str]) -> Sampler | None:
        context = self._work.context
        if not context.calibration or not names:
            return None
        feeds = first_samples(self._work.model, context.judge[0])
        return Sampler(self._work.model, names, feeds, context.threads)

    def _samples(self, sampler: Sampler | None, call: AttentionCall) -> tuple[Real, ...]:
        """Return q, k and v on calibration data; empty where there are none."""
        if sampler is None:
            return ()
        try:
            found = [sampler(value.name or "") for value in (call.q, call.k, call.v)]
        except CannotRun:
            return ()
        arrays = tuple(array.astype(np.float32) for array in found if array is not None)
        return arrays if len(arrays) == 3 else ()

    def _rewrite(self, call: AttentionCall, samples: tuple[Real, ...]) -> None:
        assert call.mask is not None
        sizes = call.sizes(self._shapes(_operands(call)))
        plan = plan_bias(self._work.model, call, sizes, self._step.max_length)
        pairs = self._factor(call, plan, sizes, samples)
        rank = sum(pair.rank for pair in pairs) + bool(plan.columns)
        payoff = self._payoff(call, sizes, rank, plan)
        build = self._work.builder(call.node)
        weights = [self._placed(build, pair, call) for pair in pairs]
        try:
            result = _emit(build, call, plan, sizes, weights)
        except Mismatch:
            Proposal((call.node,), (), tuple(build.nodes)).discard()
            raise
        damage = Damage(
            site=call.node.name or call.node.op_type,
            format=f"bias rank {rank}",
            error=0.0,
            bytes_before=sum(4 * part.size for part in plan.parts),
            bytes_after=sum(pair.bytes for pair in pairs),
            ms_before=None if payoff is None else payoff.ms_before,
            ms_after=None if payoff is None else payoff.ms_after,
            rank=rank,
        )
        proposal = Proposal(
            (call.node, *plan.nodes), ((call.node.outputs[0], result),), tuple(build.nodes),
            tuple(build.initializers),
        )  # fmt: skip
        if self._work.propose(proposal, damage, self._named(call, samples)):
            self._weights.update((p.key, w) for p, w in zip(pairs, weights, strict=True))

    def _placed(self, build: Builder, pair: _Pair, call: AttentionCall) -> _Weights:
        """Return the factors as weights: those that are in the model already, if there are."""
        name = "bias" if call.mask is None else call.mask.name
        return self._weights.get(pair.key) or (
            build.constant(pair.left, f"{name}.left"),
            build.constant(pair.right, f"{name}.right"),
        )

    def _shapes(self, values: Sequence[onnx_ir.Value]) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes at the first binding, by name; what is not known yet is looked at together."""
        missing = [value for value in values if value.name not in self._known]
        context = self._work.context
        if missing:
            found = observed_shapes(self._work.model, missing, context.bindings, context.threads)
            self._known.update(found)
        return self._known

    def _factor(
        self,
        call: AttentionCall,
        plan: BiasPlan,
        sizes: AttentionSizes,
        samples: tuple[Real, ...],
    ) -> list[_Pair]:
        pairs: list[_Pair] = []
        if plan.table is not None:
            scale = call.factor(sizes.head)
            name = call.node.name or call.node.op_type
            self._work.coverage.spectra[name] = energy_lost(self._factors, plan.table, sizes)
            found = factor_table(self._factors, plan.table, sizes, samples, scale)
            pairs.append(_Pair(found.left, found.right))
        pairs += [_Pair(*pattern_factors(pattern)) for pattern in plan.patterns]
        if any(pair.right.shape[1] not in {1, sizes.key_heads} for pair in pairs):
            raise Mismatch(f"a mask per head, but {sizes.key_heads} heads of keys")
        return pairs

    def _payoff(
        self,
        call: AttentionCall,
        sizes: AttentionSizes,
        rank: int,
        plan: BiasPlan,
    ) -> Payoff | None:
        if self._step.when == "always":
            return None
        return check_pays(
            self._work,
            call,
            sizes,
            rank,
            mask_kind="float" if plan.rest or plan.stored else "",
            mask_shape=self._rest_shape(plan, sizes),
            causal=plan.causal,
        )

    def _rest_shape(self, plan: BiasPlan, sizes: AttentionSizes) -> tuple[int, ...] | None:
        """Return the shape, of rank 4, of the mask that is left."""
        values = [term.value for term in plan.rest]
        found = self._shapes(values)
        known = [found[value.name or ""] for value in values if value.name in found]
        shapes = [*known, *(mask.shape for mask in plan.stored)]
        if not shapes:
            return None
        if len(known) < len(values):
            raise Mismatch("the shape of the mask that would be left is not known")
        shape = np.broadcast_shapes(*shapes, (1, 1, sizes.queries, 1))
        return tuple(int(size) for size in shape)

    def _named(self, call: AttentionCall, samples: tuple[Real, ...]) -> dict[str, Real]:
        if not samples:
            return {}
        operands = (call.q, call.k, call.v)
        return {v.name or "": array for v, array in zip(operands, samples, strict=True)}


def _operands(call: AttentionCall) -> list[onnx_ir.Value]:
    return [value for value in (call.q, call.k, call.v, call.mask) if value is not None]


def _check_form(call: AttentionCall) -> None:
    """Decline before anything is computed."""
    if call.past_key is not None:
        raise Mismatch("keys are appended to a cache")
    if call.softcap:
        raise Mismatch("the scores are capped before the bias is added")
    if call.q.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the operands are of type {call.q.dtype}, not FLOAT")


def _emit(
    build: Builder,
    call: AttentionCall,
    plan: BiasPlan,
    sizes: AttentionSizes,
    weights: Sequence[_Weights],
) -> onnx_ir.Value:
    mask = _join(build, call, plan, sizes)
    left = [_place(build, pair[0], call.q, plan, sizes) for pair in weights]
    right = [_place(build, pair[1], call.k, plan, sizes) for pair in weights]
    if plan.columns:
        left.append(build.constant(np.ones((1, 1, 1, 1), np.float32)))
        right.append(_column(build, plan))
    return append_factors(build, call, left, right, mask=mask, causal=plan.causal)


def _join(
    build: Builder, call: AttentionCall, plan: BiasPlan, sizes: AttentionSizes
) -> onnx_ir.Value | None:
    """Add up what stays a mask, with a row for every query: not all kernels repeat one."""
    values = [_summand(build, term) for term in plan.rest]
    full = any((dimensions(term.value) or (1, 1))[-2:-1] not in {(), (1,)} for term in plan.rest)
    for mask in plan.stored:
        values.append(_repeated(build, build.constant(mask), call.q, sizes))
        full = full or mask.shape[-2] > 1
    if not values:
        return None
    total = functools.reduce(lambda one, other: build.op("Add", one, other), values)
    if full:
        return total
    count = build.op("Shape", call.q, attributes={"start": 2, "end": 3})
    shape = build.op("Concat", build.ints(1, 1), count, build.ints(1), attributes={"axis": 0})
    return build.op("Expand", total, shape)


def _column(build: Builder, plan: BiasPlan) -> onnx_ir.Value:
    """Return what the graph adds for each key: ``[batch or 1, 1, m, 1]``."""
    summands = [_summand(build, term) for term in plan.columns]
    total = functools.reduce(lambda one, other: build.op("Add", one, other), summands)
    finite = build.op("Max", total, build.constant(np.asarray(ABSORBS, np.float32)))
    return build.op("Transpose", finite, attributes={"perm": [0, 1, 3, 2]})


def _summand(build: Builder, term: Summand) -> onnx_ir.Value:
    if term.fill is None:
        return term.value
    zero, fill = (build.constant(np.asarray(x, np.float32)) for x in (0.0, term.fill))
    return build.op("Where", term.value, zero, fill)


def _place(
    build: Builder,
    factor: onnx_ir.Value,
    operand: onnx_ir.Value,
    plan: BiasPlan,
    sizes: AttentionSizes,
) -> onnx_ir.Value:
    """Repeat a factor for the batch and cut it to the length, as the operand has them."""
    length = (static_shape(factor) or (1, 1, 1))[2]
    if plan.length is not None and length > 1:
        end = build.op("Shape", operand, attributes={"start": 2, "end": 3})
        factor = build.op("Slice", factor, build.ints(0), end, build.ints(2))
    return _repeated(build, factor, operand, sizes)


def _repeated(
    build: Builder, table: onnx_ir.Value, operand: onnx_ir.Value, sizes: AttentionSizes
) -> onnx_ir.Value:
    """Repeat a table of several samples as often as it fits into the batch."""
    period = (static_shape(table) or (1,))[0]
    if period in {1, (dimensions(operand) or (None,))[0]}:
        return table
    if sizes.batch % period:
        raise Mismatch(f"the table has {period} samples, the batch {sizes.batch}")
    count = build.op("Shape", operand, attributes={"start": 0, "end": 1})
    times = build.op("Div", count, build.ints(period))
    repeats = build.op("Concat", times, build.ints(1, 1, 1), attributes={"axis": 0})
    return build.op("Tile", table, repeats)
