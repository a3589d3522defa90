"""How many units each weight loses under the budgets that the pass offers."""

from collections.abc import Sequence
from typing import Literal

from whet.errors import Mismatch
from whet.passes.sparsity.algorithms.budgets import (
    angular_keeping,
    by_price,
    by_susceptibility,
    pq_susceptibility,
    uniform,
)
from whet.passes.sparsity.algorithms.pattern import Pattern
from whet.passes.sparsity.algorithms.saliency import magnitude
from whet.passes.sparsity.block_turns import block_of, turns
from whet.passes.sparsity.pricing import Priced
from whet.passes.workbench import Workbench

__all__ = ["Budget", "counts_of"]

Budget = Literal["uniform", "global", "pq", "cfsp", "second-order"]


def counts_of(
    work: Workbench,
    priced: Sequence[Priced],
    pattern: Pattern,
    budget: Budget,
    share: float,
    floor: float,
) -> list[int]:
    """Return how many units each weight loses; N:M patterns say so themselves."""
    sizes = [p.prices.size for p in priced]
    if pattern.share is not None:
        return uniform(sizes, pattern.share)
    match budget:
        case "uniform":
            return uniform(sizes, share)
        case "global":
            sums = [pattern.pooled(magnitude(p.target.matrix)) for p in priced]
            return by_price(sums, share, floor)
        case "second-order":
            return by_price([p.prices for p in priced], share, floor)
        case "pq":
            found = [pq_susceptibility(p.target.matrix) for p in priced]
            return by_susceptibility(sizes, found, share, floor)
        case "cfsp":
            return by_susceptibility(sizes, _block_shares(work, priced, share), share, floor)


def _block_shares(work: Workbench, priced: Sequence[Priced], share: float) -> list[float]:
    """Return the share that each weight's block can lose; weights outside of blocks get the mean."""
    batches = work.context.calibration
    if not batches:
        raise Mismatch("budget=cfsp needs calibration data")
    own = [block_of(p.target.node) for p in priced]
    blocks = list(dict.fromkeys(block for block in own if block is not None))
    if not blocks:
        raise Mismatch("budget=cfsp needs residual blocks, the model has none around its weights")
    angles = turns(work.model, blocks, batches, work.context.threads)
    shares = dict(zip(blocks, angular_keeping([angles[b] for b in blocks], share), strict=True))
    return [share if block is None else shares[block] for block in own]
