import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.grid import as_blocks
from whet.passes.quantization.algorithms.grid_search import extremes, least_squares
from whet.passes.quantization.algorithms.rounding import importance, round_to_nearest, row_errors

shapes = st.tuples(st.integers(1, 6), st.integers(1, 40))
sizes = st.one_of(st.none(), st.integers(1, 48))
grids = st.fixed_dictionaries({"symmetric": st.booleans(), "full": st.booleans()})


def heavy(shape, seed):
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


def gram_of(inputs, seed, count=None):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count or 2 * inputs, inputs)) @ rng.standard_normal((inputs,) * 2)
    return rows.T @ rows / len(rows)


@given(shapes, st.integers(0, 99), st.integers(2, 8), sizes, grids)
def test_no_block_is_worse_than_at_the_extremes(shape, seed, bits, size, grid):
    weights = heavy(shape, seed)
    block = shape[1] if size is None else min(size, shape[1])
    h = np.random.default_rng(seed).random(shape[1])
    lost = [
        as_blocks((made.nearest(weights).values() - weights) ** 2 * h, block).sum(2)
        for made in (
            least_squares(weights, bits, block, weighting=h, **grid),
            extremes(weights, bits, block, **grid),
        )
    ]
    assert (lost[0] <= lost[1] * (1 + 1e-5) + 1e-12).all()


@given(shapes, st.integers(0, 99), st.integers(2, 8), sizes, grids)
def test_no_row_is_worse_than_at_the_extremes_by_the_gram_matrix(shape, seed, bits, size, grid):
    layer = Layer(heavy(shape, seed), gram_of(shape[1], seed))
    best, widest = (
        round_to_nearest(layer, bits, size, clip=clip, **grid) for clip in ("mse", "extremes")
    )
    errors = [row_errors(layer.weights, b.values(), layer.gram) for b in (best, widest)]
    assert (errors[0] <= errors[1]).all()


@pytest.mark.parametrize(
    ("bits", "symmetric"), [(2, True), (3, True), (4, True), (8, True), (2, False), (4, False)]
)
def test_close_to_the_best_of_a_fine_search(bits, symmetric):
    """The best scale by brute force, for a row with heavy tails."""
    weights = heavy((1, 64), 5)
    layer = Layer(weights)
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    widest = np.abs(weights).max() * 2 / (high - low)
    zeros = [0] if symmetric else range(high + 1)
    least = min(
        float((((np.clip(np.rint(weights / s) + z, low, high) - z) * s - weights) ** 2).sum())
        for s in np.linspace(0.02, 1.1, 800) * widest
        for z in zeros
    )
    found = layer.error(round_to_nearest(layer, bits, symmetric=symmetric))
    assert found * float((weights**2).sum()) <= least * 1.06


def test_clipping_pays_where_tails_are_heavy():
    layer = Layer(heavy((8, 256), 0))
    clipped, whole = (
        layer.error(round_to_nearest(layer, 3, clip=clip)) for clip in ("mse", "extremes")
    )
    assert clipped < 0.7 * whole


@given(st.integers(0, 20), st.booleans())
def test_more_bits_lose_less(seed, symmetric):
    layer = Layer(heavy((4, 48), seed))
    errors = [
        layer.error(round_to_nearest(layer, bits, 16, symmetric=symmetric)) for bits in range(2, 9)
    ]
    assert all(more < less for less, more in itertools.pairwise(errors))


def test_weighting_moves_the_grid_to_what_matters():
    weights = np.array([[8.0, 1.0, -0.9, 0.7]], np.float32)
    even = round_to_nearest(Layer(weights), 3)
    tail = round_to_nearest(Layer(weights), 3, weighting=np.array([1e-6, 1.0, 1.0, 1.0]))
    assert even.values()[0, 0] > 7
    assert np.abs(tail.values() - weights)[0, 1:].max() < 0.15
    by_gram = round_to_nearest(Layer(weights, np.diag([1e-9, 1.0, 1.0, 1.0])), 3)
    assert np.abs(by_gram.values() - weights)[0, 1:].max() < 0.15


def test_every_row_may_have_weights_of_its_own():
    weights = np.array([[8.0, 1.0, -0.9, 0.7]] * 2, np.float32)
    h = np.array([[1.0, 1.0, 1.0, 1.0], [1e-6, 1.0, 1.0, 1.0]])
    found = round_to_nearest(Layer(weights), 3, weighting=h)
    assert found.scales[0, 0] > 2 * found.scales[1, 0]


def test_a_full_range_reaches_further_on_the_side_that_needs_it():
    weights = np.array([[2.0, 1.0, -1.0, 0.0]], np.float32)
    found = round_to_nearest(Layer(weights), 2, full=True)
    np.testing.assert_allclose(found.values(), weights, atol=1e-6)
    assert found.scales[0, 0] < 0
    assert found.codes.min() == -2
    assert round_to_nearest(Layer(weights), 2).codes.min() == -1


@pytest.mark.parametrize("symmetric", [True, False])
def test_degenerate_weights(symmetric):
    zeros = round_to_nearest(Layer(np.zeros((2, 5), np.float32)), 4, 2, symmetric=symmetric)
    np.testing.assert_array_equal(zeros.values(), np.zeros((2, 5)))
    np.testing.assert_array_equal(zeros.scales, np.ones((2, 3)))
    one = round_to_nearest(Layer(np.array([[3.0]], np.float32)), 2, symmetric=symmetric)
    np.testing.assert_allclose(one.values(), [[3.0]], rtol=1e-6)
    tiny = np.array([[1e-38, -1e-38, 1e30]], np.float32)
    assert np.isfinite(round_to_nearest(Layer(tiny), 8, 2, symmetric=symmetric).values()).all()


def test_an_input_that_is_never_seen_still_counts_a_little():
    layer = Layer(np.ones((1, 3), np.float32), np.diag([0.0, 2.0, 4.0]))
    seen = importance(layer)
    assert 0 < seen[0] < seen[1] < seen[2]
    assert importance(Layer(layer.weights)) is None
    assert importance(Layer(layer.weights, np.zeros((3, 3)))) is None


@pytest.mark.parametrize(
    ("weights", "bits", "size", "message"),
    [
        (np.ones((1, 2)), 1, None, "bits is 1"),
        (np.ones((1, 2)), 9, None, "bits is 9"),
        (np.ones((1, 2)), 4, 0, "a block has 0 inputs"),
        (np.ones(3), 4, None, r"shape \[3\]"),
        (np.ones((0, 3)), 4, None, r"shape \[0, 3\]"),
        (np.array([[np.nan, 1.0]]), 4, None, "not a number"),
    ],
)
def test_what_no_grid_can_be_made_of(weights, bits, size, message):
    with pytest.raises(ValueError, match=message):
        round_to_nearest(Layer(weights.astype(np.float32)), bits, size)
