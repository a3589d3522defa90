import numpy as np
import pytest

from whet.passes.sparsity.algorithms.columns import column_mask, static_prices
from whet.passes.sparsity.algorithms.pattern import read_pattern
from whet.passes.sparsity.algorithms.recovery import damped, masked_least_squares
from whet.passes.sparsity.algorithms.saliency import magnitude, wanda

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((300, 300)) * 0.1 + np.diag(RNG.lognormal(0, 1, 300))
X = RNG.standard_normal((900, 300)) @ MIX
GRAM = damped(X.T @ X / 900, 0.01)
WEIGHTS = RNG.standard_normal((24, 300))


def lost(keep: np.ndarray) -> float:
    change = masked_least_squares(WEIGHTS, GRAM, keep) - WEIGHTS
    return float(np.vdot(change @ GRAM, change))


@pytest.mark.parametrize(("text", "share"), [("unstructured", 0.6), ("2:4", 0.5), ("4x1", 0.5)])
def test_masks_lose_less_than_those_by_magnitude(text: str, share: float) -> None:
    pattern = read_pattern(text)
    keep = column_mask(WEIGHTS, np.linalg.inv(GRAM), pattern, share)
    assert keep.mean() == pytest.approx(1 - share, abs=0.01)
    prices = pattern.pooled(magnitude(WEIGHTS))
    plain = pattern.keep(prices, round(share * prices.size))
    seen = pattern.keep(pattern.pooled(wanda(WEIGHTS, GRAM)), round(share * prices.size))
    assert lost(keep) < lost(seen) < lost(plain)


def test_one_block_of_one_column_follows_the_equations() -> None:
    inverse = np.linalg.inv(GRAM)
    prices = static_prices(WEIGHTS, inverse, read_pattern("unstructured"))
    keep = np.ones((1, 300), np.bool)
    keep[0, 7] = False
    change = masked_least_squares(WEIGHTS[:1], GRAM, keep) - WEIGHTS[:1]
    wanted = 0.5 * np.einsum("ri,ij,rj", change, GRAM, change)
    assert prices[0, 7] == pytest.approx(wanted, rel=1e-4)
