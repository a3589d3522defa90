"""Fit factors to a bias that is computed from the input."""

import dataclasses
from typing import ClassVar, Literal

import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.errors import Mismatch
from whet.passes.attention.break_even import Payoff, check_pays
from whet.passes.attention.call import AttentionCall, AttentionSizes, read_masked
from whet.passes.attention.emission import Emitter
from whet.passes.attention.factor_functions import emit_function
from whet.passes.attention.factors import append_factors
from whet.passes.attention.fit_factors import Fit, fit_factors
from whet.passes.attention.input_bias import InputBias, read_input_bias
from whet.passes.attention.pair_samples import (
    PairSampler,
    Samples,
    boundary,
    observe_all,
    split_samples,
)
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["FitBiasFactors"]

_FLOAT = onnx_ir.DataType.FLOAT
_RANKS = (4, 8, 16, 32)
_MARGIN = 0.7
"""The samples that choose must be within this share of the allowed error: those that judge are others."""
_WIDEST = 1024
"""Positions with more features are left alone."""


@dataclasses.dataclass(frozen=True)
class FitBiasFactors(Pass):
    """Replace ``softmax(scale q k' + B(x)) v`` by ``softmax([U(x), scale q] [V(x), k]') v`` with fitted U and V.

    For a bias that is computed from the input and has no closed form, such as a pair representation that a small
    network makes of ``x_i`` and ``x_j`` (FlashBias, 2025). U and V are functions of what B is computed from, one row
    for each position, found by alternating least squares on fixed functions of the features and, if that is not enough
    and torch is there, by perceptrons trained on the attention's output. No tensor of queries times keys is made any
    more. Calibration data are dealt out: some samples fit, some choose, and the rest judge: a place is rewritten only
    if the output of its attention stays within ``error`` on samples that had no part in the fit.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    explains: ClassVar[bool] = True
    bound: ClassVar[float | None] = 2e-2

    error: float = option(2e-2, above=0)
    """The largest ``||y' - y|| / ||y||`` of an attention's output on held-out samples."""
    rank: int = option(16, at_least=1)
    """At most so many columns are appended to each head."""
    hidden: int = option(64, at_least=1)
    """Width of the perceptrons."""
    steps: int = option(600, at_least=0)
    """Steps of their training; 0 leaves them out."""
    samples: int = option(64, at_least=1)
    """Calibration samples that are looked at, held-out ones included."""
    when: Literal["measured", "always"] = "measured"
    """``always``: also where it was not measured to be faster."""

    @property
    def tolerance(self) -> float:
        """Return the allowed error."""
        return self.error

    def apply(self, work: Workbench) -> None:
        """Visit every Attention whose mask is computed from the input."""
        for node in work.nodes("Attention"):
            call = read_masked(node)
            if call is None:
                continue
            try:
                bias = read_input_bias(call)
                if bias is not None:
                    work.coverage.matched += 1
                    _Place(self, work, call, bias).rewrite()
            except Mismatch as reason:
                work.decline(node, str(reason))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that are tried, in this order."""
        return (*(rank for rank in _RANKS if rank < self.rank), self.rank)


class _Place:
    """One attention."""

    def __init__(
        self, step: FitBiasFactors, work: Workbench, call: AttentionCall, bias: InputBias
    ) -> None:
        self._step, self._work, self._call, self._bias = step, work, call, bias

    def rewrite(self) -> None:
        """Fit, judge and propose; raises Mismatch."""
        samples, sizes = self._check()
        payoff = self._payoff(sizes, self._step.ranks[0])
        name = self._call.node.name or "Attention"
        self._work.context.progress(f"fit factors to the bias of {name}")
        fit = self._fit(samples)
        if fit.rank > self._step.ranks[0]:
            payoff = self._payoff(sizes, fit.rank)
        self._propose(fit, samples, payoff)

    def _check(self) -> tuple[Samples, AttentionSizes]:
        """Decline what could not be rewritten anyway."""
        call, context = self._call, self._work.context
        if call.q.dtype != _FLOAT:
            raise Mismatch("the operands are not float32")
        if call.softcap:
            raise Mismatch("the scores are capped before the bias is added")
        if call.past_key is not None:
            raise Mismatch("keys are appended to a cache")
        for side in (self._bias.features.query, self._bias.features.key):
            if (width := sum(feature.width for feature in side)) > _WIDEST:
                raise Mismatch(f"it is computed from {width} features, at most {_WIDEST} are used")
        if not context.calibration:
            raise Mismatch("needs calibration data")
        operands = [v for v in (call.q, call.k, call.v, call.mask) if v is not None]
        shapes = observed_shapes(self._work.model, operands, context.bindings, context.threads)
        sizes = call.sizes(shapes)
        return split_samples(self._work.model, context.calibration, self._step.samples), sizes

    def _payoff(self, sizes: AttentionSizes, rank: int) -> Payoff | None:
        if self._step.when == "always":
            return None
        return check_pays(
            self._work,
            self._call,
            sizes,
            rank + self._bias.extra,
            mask_kind=self._bias.kind,
            mask_shape=self._bias.rest_shape(sizes),
            causal=self._bias.causal,
        )

    def _fit(self, samples: Samples) -> Fit:
        """Return a fit that holds on the samples that judge."""
        step, sampler = self._step, PairSampler(self._work, self._call, self._bias)
        train, check, judge = (sampler(part) for part in samples.sets)
        key_heads, heads = _heads(self._call, train.bias.shape[1])
        if key_heads != heads:
            raise Mismatch("the bias differs by head, but heads share their keys")
        goal = _MARGIN * step.error
        fit = fit_factors(
            train,
            check,
            step.ranks,
            goal,
            hidden=step.hidden,
            steps=step.steps,
            seed=self._work.context.seed,
        )
        error = fit.error(judge)
        if not error <= step.error:
            raise Mismatch(
                f"rank {fit.rank} reaches {error:.1e} on held-out data ({fit.train_error:.1e} on the data of the fit), "
                f"allowed {step.error:.1e}"
            )
        return fit

    def _propose(self, fit: Fit, samples: Samples, payoff: Payoff | None) -> None:
        call, bias = self._call, self._bias
        build = self._work.builder(call.node)
        try:
            new = self._build(build, fit)
        except Mismatch:
            Proposal((call.node,), (), tuple(build.nodes)).discard()
            raise
        proposal = Proposal(
            (call.node, *bias.nodes),
            ((call.node.outputs[0], new),),
            tuple(build.nodes),
            tuple(build.initializers),
        )
        names = boundary([*proposal.old, *proposal.new])
        (seen,) = observe_all(self._work, names, samples.judge[:1])
        self._work.propose(proposal, _damage(proposal, fit, payoff), seen)

    def _build(self, build: Builder, fit: Fit) -> onnx_ir.Value:
        call, bias = self._call, self._bias
        emitter = Emitter(build, call, _FLOAT)
        left, right = emitter.factors(bias.terms)
        body = bias.rest()
        mask = None if body is None else emitter.bias(body)
        left.append(emit_function(build, fit.query, bias.features.query))
        right.append(emit_function(build, fit.key, bias.features.key))
        return append_factors(build, call, left, right, mask=mask, causal=bias.causal)


def _heads(call: AttentionCall, heads: int) -> tuple[int, int]:
    """Return the heads that the factor of the keys may have, and those that it has."""
    shape = call.k.shape
    found = None if shape is None else shape[1]
    if heads == 1 or not isinstance(found, int):
        return heads, heads
    return found, heads


def _damage(proposal: Proposal, fit: Fit, payoff: Payoff | None) -> Damage:
    weights = [v.const_value for v in proposal.initializers if v.const_value is not None]
    return Damage(
        site=proposal.site,
        format=f"fitted factors of rank {fit.rank}",
        error=0.0,
        bytes_before=0,
        bytes_after=sum(weight.nbytes for weight in weights),
        ms_before=None if payoff is None else payoff.ms_before,
        ms_after=None if payoff is None else payoff.ms_after,
        rank=fit.rank,
    )
