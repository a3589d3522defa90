"""How many units each layer loses when all layers together are to lose a share.

Every function returns one count for each layer, whose sum is the share of all units (of equal size), as far as the
floor allows: at least that share of each layer stays, since a layer that is cut through ends the network.
"""

from collections.abc import Sequence

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles

__all__ = ["angular_keeping", "by_price", "by_susceptibility", "pq_susceptibility", "uniform"]

_HALVINGS = 100


def uniform(sizes: Sequence[int], share: float) -> list[int]:
    """Take the share of every layer."""
    return [round(share * size) for size in sizes]


def by_price(prices: Sequence[Array], share: float, floor: float) -> list[int]:
    """Remove the cheapest units wherever they are: what the last one costs is the same in every layer.

    With magnitudes for prices it is global magnitude pruning; with marginal predicted losses, the least sum of them.
    """
    limits = [_limit(p.size, floor) for p in prices]
    cheapest = [np.sort(p, axis=None)[:limit] for p, limit in zip(prices, limits, strict=True)]
    owner = np.repeat(np.arange(len(prices)), limits)
    wanted = round(share * sum(p.size for p in prices))
    order = np.argsort(np.concatenate(cheapest), kind="stable")[:wanted]
    return [int(n) for n in np.bincount(owner[order], minlength=len(prices))]


def by_susceptibility(
    sizes: Sequence[int], susceptibility: Sequence[float], share: float, floor: float
) -> list[int]:
    """Take shares in proportion to how much each layer can lose, cut at what the floor leaves."""
    wanted = share * sum(sizes)
    shares = np.maximum(np.asarray(susceptibility, np.float64), 1e-9)
    whole = np.asarray(sizes, np.float64)
    low, high = 0.0, 1.0 / float(shares.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        taken = float((np.minimum(middle * shares, 1 - floor) * whole).sum())
        low, high = (middle, high) if taken < wanted else (low, middle)
    found = np.minimum(high * shares, 1 - floor) * whole
    return [min(round(n), _limit(size, floor)) for n, size in zip(found, sizes, strict=True)]


def pq_susceptibility(weights: Array, p: float = 0.5, q: float = 1.0) -> float:
    """Return the share that a layer's own sparsity says it can lose (SAP; Diao et al. 2023).

    With d weights and the PQ index I = 1 - d^(1/q - 1/p) ||w||_p / ||w||_q, which is 0 where all have the same size and
    nears 1 where few hold everything, at least d (1 - I)^(pq / (q - p)) must stay.
    """
    sizes = np.abs(weights.astype(np.float64)).reshape(-1)
    top = float(sizes.max(initial=0.0))
    if top == 0.0:
        return 1.0
    sizes /= top
    count = float(sizes.size)
    norms = [float((sizes**k).sum()) ** (1 / k) for k in (p, q)]
    inverse = count ** (1 / q - 1 / p) * norms[0] / norms[1]
    return float(1 - inverse ** (p * q / (q - p)))


def angular_keeping(distances: Sequence[float], share: float) -> list[float]:
    """Return the shares that blocks can lose, less where they turn their input further (CFSP; Wang et al. 2024).

    ``distances`` are arccos(cosine of a block's input and output) / pi; the share that stays goes with the sigmoid of
    the distance, standardized over the blocks.
    """
    found: Doubles = np.asarray(distances, np.float64)
    spread = float(found.std()) or 1.0
    importance = 1 / (1 + np.exp(-(found - found.mean()) / spread))
    kept = (1 - share) * importance / importance.mean()
    return [float(1 - k) for k in np.clip(kept, 0.0, 1.0)]


def _limit(size: int, floor: float) -> int:
    """Return how many units may go; one always stays."""
    return max(0, min(int(size * (1 - floor)), size - 1))
