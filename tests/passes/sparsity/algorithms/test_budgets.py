import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.sparsity.algorithms.budgets import (
    angular_keeping,
    by_price,
    by_susceptibility,
    pq_susceptibility,
    uniform,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(20, 200), min_size=1, max_size=6),
    st.floats(0.1, 0.9),
    st.floats(0, 0.1),
    st.integers(0, 99),
)
def test_counts_add_up_and_the_floor_holds(
    sizes: list[int], share: float, floor: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prices = [rng.random((n, 1)) * rng.lognormal(0, 3) for n in sizes]
    for counts in (
        by_price(prices, share, floor),
        by_susceptibility(sizes, rng.random(len(sizes)).tolist(), share, floor),
    ):
        assert abs(sum(counts) - share * sum(sizes)) <= len(sizes) + 1
        assert all(0 <= n <= max(1 - floor, 0) * s for n, s in zip(counts, sizes, strict=True))


def test_the_cheapest_go_wherever_they_are() -> None:
    prices = [np.asarray([[1.0, 9.0, 2.0]]), np.asarray([[3.0, 0.5, 8.0]])]
    assert by_price(prices, 0.5, 0.0) == [2, 1]
    assert by_price(prices, 0.67, 0.4) == [1, 1]
    assert uniform([10, 4], 0.5) == [5, 2]


def test_no_other_split_loses_less() -> None:
    rng = np.random.default_rng(0)
    prices = [rng.random((1, 6)), 2 * rng.random((1, 6))]
    first, second = by_price(prices, 0.5, 0.0)
    whole = [np.sort(p, axis=None) for p in prices]
    losses = {k: whole[0][:k].sum() + whole[1][: 6 - k].sum() for k in range(1, 6)}
    assert min(losses, key=lambda k: losses[k]) == first
    assert first + second == 6


def test_the_index_of_pq_follows_its_equation() -> None:
    assert pq_susceptibility(np.ones(50)) == pytest.approx(0.0, abs=1e-12)
    one = np.zeros(50)
    one[3] = -2.0
    assert pq_susceptibility(one) == pytest.approx(1 - 1 / 50)
    w = np.random.default_rng(0).standard_normal(300)
    index = 1 - 300 ** (1 / 1 - 1 / 0.5) * np.sqrt(np.abs(w)).sum() ** 2 / np.abs(w).sum()
    assert pq_susceptibility(w) == pytest.approx(1 - (1 - index) ** 1.0)
    assert pq_susceptibility(np.zeros(4)) == 1.0


def test_blocks_that_turn_further_keep_more() -> None:
    shares = angular_keeping([0.1, 0.2, 0.4], 0.5)
    assert shares[0] > shares[1] > shares[2]
    assert np.mean(shares) == pytest.approx(0.5)
    assert angular_keeping([0.2, 0.2], 0.3) == pytest.approx([0.3, 0.3])
