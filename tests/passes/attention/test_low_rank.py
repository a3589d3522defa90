import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from attention_reference import (
    bucket_table,
    relative_table_1d,
    relative_table_2d,
    smooth_table,
)

from whet.passes.attention.low_rank import (
    Sample,
    attend,
    center,
    decompose,
    factor,
    output_error,
    smallest_rank,
)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sample(seed: int, heads: int, n: int, m: int, d: int = 8) -> Sample:
    q, k, v = (
        draw(seed, 2, heads, n, d),
        draw(seed + 1, 2, heads, m, d),
        draw(seed + 2, 2, heads, m, d),
    )
    return Sample(q, k, v, d**-0.5)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(0, 999))


@hypothesis.given(shapes)
def test_attention_does_not_see_what_centering_takes_away(shape: tuple[int, int, int, int]) -> None:
    heads, n, m, seed = shape
    table, data = 5 * draw(seed, heads, n, m), sample(seed, heads, n, m)
    np.testing.assert_allclose(attend(data, center(table)), attend(data, table), atol=1e-12)


@hypothesis.given(shapes)
def test_full_rank_is_exact_up_to_float32(shape: tuple[int, int, int, int]) -> None:
    heads, n, m, seed = shape
    table = 3 * draw(seed, heads, n, m)
    found = factor(table)
    assert found.rank <= min(n, m)
    assert found.left.shape == (heads, n, found.rank)
    assert found.right.shape == (heads, m, found.rank)
    assert found.left.dtype == found.right.dtype == np.float32
    assert output_error(table, found, sample(seed, heads, n, m)) <= 1e-5


@hypothesis.given(shapes, st.integers(1, 8))
def test_truncation_is_the_best_of_its_rank_over_all_row_constants(
    shape: tuple[int, int, int, int], rank: int
) -> None:
    heads, n, m, seed = shape
    table = draw(seed, heads, n, m)
    found = factor(table, rank=rank)
    centered = center(table)
    best = ((centered - found.product()) ** 2).sum(axis=(-2, -1))
    tail = (np.linalg.svd(centered, compute_uv=False)[:, found.rank :] ** 2).sum(-1)
    np.testing.assert_allclose(best, tail, rtol=1e-3, atol=1e-8)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        other = table + rng.standard_normal((heads, n, 1))
        s = np.linalg.svd(other.astype(np.float64), compute_uv=False)
        assert ((s[:, found.rank :] ** 2).sum(-1) >= tail - 1e-9).all()


def test_the_rank_is_the_smallest_that_keeps_the_energy_in_every_head() -> None:
    table = smooth_table(4, 48, 32)
    spectrum = decompose(table)
    rank = spectrum.rank(0.99)
    assert rank is not None
    assert 0 < rank < 8
    assert spectrum.factors(rank).energy >= 0.99 > spectrum.factors(rank - 1).energy
    assert factor(table, energy=0.99).rank == rank


def test_energy_is_counted_after_the_row_means() -> None:
    table = smooth_table(1, 32, 32) + 1000 * np.arange(32, dtype=np.float32)[:, None]
    assert factor(table, energy=0.995).rank == factor(smooth_table(1, 32, 32), energy=0.995).rank


def test_constant_rows_have_rank_zero() -> None:
    assert factor(np.ones((2, 5, 7), np.float32) * np.arange(5)[:, None]).rank == 0


def test_factors_are_balanced() -> None:
    found = factor(100 * smooth_table(2, 40, 40), rank=3)
    left, right = (np.linalg.norm(side, axis=-2) for side in (found.left, found.right))
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_large_tables_are_decomposed_by_projection_to_the_same_rank() -> None:
    table = smooth_table(2, 700, 600)
    found = decompose(table, 0.9999)
    s = np.linalg.svd(center(table), compute_uv=False)
    assert found.largest == 32
    np.testing.assert_allclose(found.s[:, :6], s[:, :6], rtol=1e-8)
    kept = (np.cumsum(s**2, -1) / (s**2).sum(-1, keepdims=True)).min(0)
    assert found.rank(0.9999) == 1 + int(np.argmax(kept >= 0.9999))


def test_projection_widens_until_it_holds_the_energy() -> None:
    left, right = draw(1, 1, 600, 50), draw(2, 1, 600, 50)
    found = decompose(left @ np.swapaxes(right, -1, -2))
    assert 49 <= (found.rank(1.0) or 0) <= 50
    assert found.largest == 64


def test_a_limit_stops_the_projection() -> None:
    found = decompose(draw(3, 1, 600, 600), 0.995, 40)
    assert found.largest == 40
    assert found.rank(0.995) is None


def test_the_smallest_rank_inside_an_error_budget() -> None:
    table = 4 * smooth_table(2, 64, 64, 0.2)
    data, spectrum = sample(5, 2, 64, 64), decompose(table)
    rank = smallest_rank(table, spectrum, data, 1e-3)
    assert rank is not None
    assert output_error(table, spectrum.factors(rank), data) <= 1e-3
    assert output_error(table, spectrum.factors(rank - 1), data) > 1e-3


def test_no_rank_is_found_where_the_triples_do_not_reach() -> None:
    table = 4 * draw(6, 1, 32, 32)
    assert smallest_rank(table, decompose(table, limit=8), sample(6, 1, 32, 32), 1e-3) is None


@pytest.mark.parametrize(
    "table",
    [
        relative_table_1d(np.sin(np.arange(127)[:, None] / np.array([20.0, 11.0])), 64),
        relative_table_2d(np.cos(np.arange(225)[:, None] / 225 * np.array([1.0, 3.0])), 8, 8),
        bucket_table(np.tile(np.exp(-np.arange(16) / 6), 2)[:, None] * np.array([2.0, 1.0]), 64),
    ],
    ids=["relative", "window", "buckets"],
)
def test_smooth_relative_tables_are_low_rank(table: np.ndarray) -> None:
    found = factor(table, energy=0.995)
    assert found.rank <= 24
    assert output_error(table, found, sample(1, 2, *table.shape[-2:])) <= 0.05


def test_white_tables_are_not() -> None:
    assert factor(draw(7, 2, 64, 64), energy=0.995).rank > 48


def test_masked_rows_of_the_reference_are_zero_and_masked_keys_have_no_weight() -> None:
    data = sample(8, 1, 3, 4)
    bias = np.zeros((1, 3, 4))
    bias[:, 1] = -np.inf
    bias[:, 2, 1:] = -np.inf
    found = attend(data, bias)
    assert (found[:, :, 1] == 0).all()
    np.testing.assert_allclose(found[:, :, 2], data.v[:, :, 0], rtol=1e-6)
