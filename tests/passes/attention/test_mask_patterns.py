import hypothesis
import hypothesis.strategies as st
import numpy as np
from attention_reference import shifted_windows

from whet.passes.attention.mask_patterns import (
    blind,
    forms,
    is_causal,
    is_pattern,
    narrow,
    pattern_factors,
    split_mask,
)


def test_shifted_windows_have_as_many_forms_as_regions_and_exact_factors() -> None:
    mask = shifted_windows(16, 4, 2)
    assert is_pattern(mask)
    assert forms(mask) == 4
    left, right = pattern_factors(mask)
    assert left.shape == right.shape == (16, 1, 16, 4)
    np.testing.assert_array_equal(left @ np.swapaxes(right, -1, -2), mask)


@hypothesis.given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_factors_of_any_mask_are_exact(n: int, m: int, seed: int) -> None:
    mask = np.where(np.random.default_rng(seed).random((2, 3, n, m)) < 0.4, -100, 0)
    left, right = pattern_factors(mask.astype(np.float32))
    assert left.shape[-1] == forms(mask.astype(np.float32)) <= min(n, 2**m)
    np.testing.assert_array_equal(left @ np.swapaxes(right, -1, -2), mask)


def test_minus_infinity_becomes_finite_in_factors() -> None:
    mask = np.array([[0, -np.inf], [0, -np.inf]], np.float32)
    left, right = pattern_factors(mask)
    assert left.shape[-1] == 1
    np.testing.assert_array_equal(left @ right.T <= -1e30, mask < 0)


@hypothesis.given(st.integers(0, 999))
def test_a_folded_shift_mask_is_taken_out_of_its_table(seed: int) -> None:
    table = np.random.default_rng(seed).standard_normal((1, 3, 16, 16)).astype(np.float32)
    mask = shifted_windows(8, 4, 2)
    found = split_mask(table + mask)
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, np.broadcast_to(mask, (4, 3, 16, 16)))
    assert found.finite.shape == table.shape
    np.testing.assert_allclose(found.finite, table, atol=2e-5)
    np.testing.assert_array_equal(narrow(found.mask), mask)


def test_places_that_are_shut_out_for_good_become_the_mean_of_their_row() -> None:
    table = np.array([[1.0, 3.0, -3.4e38], [4.0, -np.inf, -np.inf]], np.float32)
    found = split_mask(table)
    np.testing.assert_array_equal(found.finite, [[1, 3, 2], [4, 4, 4]])
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, np.where(table < -1e4, table, 0))


def test_steep_tables_are_no_masks() -> None:
    slopes = -2.0 * np.abs(np.arange(64)[:, None] - np.arange(64)).astype(np.float32)
    assert split_mask(slopes).mask is None
    assert not is_pattern(slopes)
    assert not is_pattern(np.full((3, 3), 4, np.float32) * np.eye(3, dtype=np.float32))


def test_causal_and_blind() -> None:
    causal = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)[None]
    assert is_causal(causal)
    assert not is_causal(causal[:, ::-1])
    assert not blind(causal)
    assert blind(np.array([[0, -np.inf], [-np.inf, -3.4e38]], np.float32))
    assert blind(np.array([[-np.inf, 0], [0, 0]], np.float32), causal=True)
    assert not blind(np.full((1, 2, 2), -100, np.float32))
