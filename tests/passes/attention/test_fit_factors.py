import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.attention.feature_basis import BASES, Doubles, fit_basis
from whet.passes.attention.fit_factors import (
    Fit,
    PairData,
    fit_factors,
    least_squares_factors,
    output_error,
)

HEADS, SIZE, CHANNELS = 2, 8, 6


def seen(x: Doubles, bias: Doubles) -> PairData:
    """Attend over positions with features ``x`` under a bias."""
    batch, length, width = x.shape
    rng = np.random.default_rng(17)
    split = (batch, length, HEADS, SIZE)
    q, k, v = (
        (x @ rng.standard_normal((width, HEADS * SIZE)) / np.sqrt(width)).reshape(split)
        for _ in range(3)
    )
    q, k, v = (part.transpose(0, 2, 1, 3) for part in (q, k, v))
    return PairData(x, x, bias, q @ k.swapaxes(-1, -2) / np.sqrt(SIZE), v)


def smooth(samples: int, length: int, seed: int) -> Doubles:
    """Draw features near a surface of three dimensions."""
    mixing = np.random.default_rng(99).standard_normal((3, CHANNELS))
    return np.tanh(np.random.default_rng(seed).standard_normal((samples, length, 3)) @ mixing)


def perceptron(x: Doubles) -> Doubles:
    """Compute a bias from x_i, x_j and x_i x_j."""
    rng = np.random.default_rng(5)
    inner = rng.standard_normal((3 * CHANNELS, 24)) / np.sqrt(3 * CHANNELS)
    outer = rng.standard_normal((24, HEADS)) / np.sqrt(24) * 2
    shape = (*x.shape[:2], *x.shape[1:])
    rows, columns = np.broadcast_to(x[:, :, None], shape), np.broadcast_to(x[:, None], shape)
    z = np.concatenate([rows, columns, rows * columns], -1) @ inner
    return ((z * scipy.special.ndtr(z)) @ outer).transpose(0, 3, 1, 2)


def products(x: Doubles) -> Doubles:
    """Compute a bias of rank 3 from products of features."""
    rng = np.random.default_rng(6)
    left, right = rng.standard_normal((2, HEADS, CHANNELS, 3)) / 3
    mixed = (x + 0.5 * x * np.roll(x, 1, -1))[:, None]
    return (mixed @ left) @ (mixed @ right).swapaxes(-1, -2)


def fitted(
    bias: Callable[[Doubles], Doubles],
    steps: int = 0,
    ranks: tuple[int, ...] = (4, 8, 16),
    seed: int = 0,
) -> tuple[Fit, float]:
    """Fit on samples, choose on others, and return the error on a third set."""
    train, check, judge = (seen(x, bias(x)) for x in (smooth(8, 48, s) for s in range(3)))
    fit = fit_factors(train, check, ranks, 1e-2, steps=steps, seed=seed)
    return fit, fit.error(judge)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    samples=st.integers(2, 5),
    lengths=st.tuples(st.integers(9, 20), st.integers(9, 20)),
    widths=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    heads=st.integers(1, 3),
    rank=st.integers(1, 3),
)
def test_what_is_a_product_of_functions_is_recovered(
    seed: int,
    samples: int,
    lengths: tuple[int, int],
    widths: tuple[int, int],
    heads: int,
    rank: int,
) -> None:
    rng = np.random.default_rng(seed)
    rank = min(rank, *widths)
    left, right = (
        rng.standard_normal((samples, length, width))
        for length, width in zip(lengths, widths, strict=True)
    )
    w, z = (rng.standard_normal((heads, width, rank)) for width in widths)
    bias = (left[:, None] @ w) @ (right[:, None] @ z).swapaxes(-1, -2)
    of_query = 50 * rng.standard_normal((samples, heads, lengths[0], 1))
    found_w, found_z = least_squares_factors(left, right, bias + of_query, rank)
    found = (left[:, None] @ found_w) @ (right[:, None] @ found_z).swapaxes(-1, -2)
    gap = found - bias
    gap -= gap.mean(-1, keepdims=True)
    assert np.linalg.norm(gap) <= 1e-6 * np.linalg.norm(bias)


def test_one_sample_with_free_rows_gives_the_singular_value_decomposition() -> None:
    bias = np.random.default_rng(1).standard_normal((1, 1, 12, 9))
    w, z = least_squares_factors(np.eye(12)[None], np.eye(9)[None], bias, 4)
    centered = bias[0, 0] - bias[0, 0].mean(-1, keepdims=True)
    found = w[0] @ z[0].T
    gap = np.linalg.norm(centered - (found - found.mean(-1, keepdims=True)))
    left_out = np.linalg.svd(centered, compute_uv=False)[4:]
    assert gap == pytest.approx(np.linalg.norm(left_out), rel=1e-6)


def test_a_higher_rank_than_there_is_adds_nothing() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.standard_normal((2, 3, 10, 4))
    bias = (left @ rng.standard_normal((4, 4)) @ right.swapaxes(-1, -2))[:, None]
    w, z = least_squares_factors(left, right, bias, 7)
    gap = (left[:, None] @ w) @ (right[:, None] @ z).swapaxes(-1, -2) - bias
    gap -= gap.mean(-1, keepdims=True)
    assert w.shape == (1, 4, 7)
    assert np.abs(gap).max() < 1e-6


def test_products_of_features_are_found_at_the_lowest_rank() -> None:
    fit, error = fitted(products)
    assert fit.rank == 4
    assert error < 1e-6
    assert fit.query.basis.pairs.shape[1] > 0


def test_a_perceptron_of_pairs_is_fitted() -> None:
    fit, error = fitted(perceptron)
    assert error < 2e-2
    assert fit.train_error < 2e-2
    nothing = seen(smooth(8, 32, 2), perceptron(smooth(8, 32, 2)))
    assert output_error(nothing, 0 * nothing.bias) > 0.3


def test_training_lowers_the_error_where_the_rank_is_short() -> None:
    pytest.importorskip("torch")
    before, error_before = fitted(perceptron, ranks=(2,))
    after, error_after = fitted(perceptron, steps=150, ranks=(2,))
    assert before.query.perceptron is None
    assert after.query.perceptron is not None
    assert after.check_error < 0.9 * before.check_error
    assert error_after < 0.9 * error_before


def test_noise_of_pairs_is_not_learned() -> None:
    noise = np.random.default_rng(9).standard_normal((1, HEADS, 48, 48))
    fit, error = fitted(lambda x: np.broadcast_to(noise, (len(x), *noise.shape[1:])))
    assert error > 0.2
    assert fit.check_error > 0.2


def test_what_fits_the_samples_of_the_fit_only_shows_on_others() -> None:
    def chance(x: Doubles, seed: int) -> Doubles:
        shape = (len(x), HEADS, *(x.shape[1],) * 2)
        return np.random.default_rng(seed).standard_normal(shape)

    train, judge = (seen(x, chance(x, s)) for s in (0, 1) for x in [smooth(2, 12, s)])
    basis = fit_basis(train.x, "waves")
    columns = basis.expand(basis.project(train.x))
    w, z = least_squares_factors(columns, columns, train.bias, 24)
    errors = [
        output_error(data, (phi @ w) @ (phi @ z).swapaxes(-1, -2))
        for data in (train, judge)
        for phi in [basis.expand(basis.project(data.x))[:, None]]
    ]
    assert errors[0] < 1e-5
    assert errors[1] > 0.3


@pytest.mark.parametrize(("samples", "length", "rank"), [(1, 12, 32), (2, 8, 16), (2, 12, 32)])
def test_columns_beyond_the_rank_that_there_is_do_no_harm(
    samples: int, length: int, rank: int
) -> None:
    x = smooth(samples, length, 0)
    bias = np.random.default_rng(0).standard_normal((samples, HEADS, length, length))
    basis = fit_basis(x, "waves")
    phi = basis.expand(basis.project(x))
    w, z = least_squares_factors(phi, phi, bias, rank)
    found = (phi[:, None] @ w) @ (phi[:, None] @ z).swapaxes(-1, -2)
    assert output_error(seen(x, bias), found) < 1e-4


@pytest.mark.parametrize("steps", [0, 50])
def test_the_same_seed_gives_the_same_bits(steps: int) -> None:
    if steps:
        pytest.importorskip("torch")
    once, again, other = (fitted(perceptron, steps, (2,), seed)[0] for seed in (0, 0, 1))
    x = smooth(1, 16, 7)
    assert once.key(x).tobytes() == again.key(x).tobytes()
    assert once.key(x).tobytes() != other.key(x).tobytes() or not steps


@pytest.mark.parametrize("kind", BASES)
def test_functions_are_of_unit_spread_and_as_many_as_they_say(kind: str) -> None:
    x = np.concatenate([smooth(4, 32, 0), np.full((4, 32, 2), 3.0)], axis=-1)
    basis = fit_basis(x, next(b for b in BASES if b == kind))
    z = basis.project(x)
    assert z.reshape(-1, z.shape[-1]).std(0) == pytest.approx(1.0)
    assert basis.expand(z).shape == (4, 32, basis.width)


def test_features_that_do_not_vary_give_a_constant() -> None:
    basis = fit_basis(np.ones((2, 5, 3)), "products")
    assert np.isfinite(basis.expand(basis.project(np.ones((2, 5, 3))))).all()


def test_a_query_that_sees_no_key_counts_for_nothing() -> None:
    data = seen(smooth(2, 8, 0), perceptron(smooth(2, 8, 0)))
    scores = data.scores.copy()
    scores[:, :, 3] = -np.inf
    hidden = dataclasses.replace(data, scores=scores)
    assert not hidden.output(data.bias)[:, :, 3].any()
    shifted = data.bias + np.arange(8.0)[:, None]
    assert output_error(hidden, shifted) < 1e-12
