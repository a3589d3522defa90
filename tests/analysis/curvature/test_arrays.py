"""Inverse Fisher matrices against dense ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.analysis.curvature.block_inverse import block_inverse
from whet.analysis.curvature.mfac import GradientWindow, InverseFisher


def dense(gradients: np.ndarray, damping: float) -> np.ndarray:
    return damping * np.eye(gradients.shape[1]) + gradients.T @ gradients / len(gradients)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(0, 1000))


@settings(max_examples=40)
@given(sizes, st.sampled_from([1e-4, 1e-2, 1.0]))
def test_both_algorithms_solve_like_a_dense_solver(
    size: tuple[int, int, int], damping: float
) -> None:
    m, d, seed = size
    rng = np.random.default_rng(seed)
    gradients, x = rng.standard_normal((m, d)), rng.standard_normal(d)
    wanted = np.linalg.solve(dense(gradients, damping), x)
    static = InverseFisher(gradients, damping)
    window = GradientWindow(m, d, damping)
    for gradient in gradients:
        window.add(gradient)
    for found in (static.times(x), window.times(x), static.times(x[None])[0]):
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)
    np.testing.assert_allclose(
        static.diagonal(), np.diag(np.linalg.inv(dense(gradients, damping))), rtol=1e-6
    )


def test_the_window_forgets_the_oldest_gradient() -> None:
    rng = np.random.default_rng(0)
    gradients, x = rng.standard_normal((9, 6)), rng.standard_normal(6)
    window = GradientWindow(4, 6, 0.1)
    for k, gradient in enumerate(gradients):
        window.add(gradient)
        kept = gradients[max(0, k - 3) : k + 1]
        assert len(window) == len(kept)
        wanted = np.linalg.solve(dense(kept, 0.1), x)
        np.testing.assert_allclose(window.times(x), wanted, rtol=1e-9)


def test_an_empty_window_is_the_damping() -> None:
    np.testing.assert_allclose(GradientWindow(3, 2, 0.5).times(np.ones(2)), [2.0, 2.0])


def test_memory_grows_with_gradients_times_weights() -> None:
    m, d = 16, 50_000
    gradients = np.random.default_rng(0).standard_normal((m, d))
    assert InverseFisher(gradients, 0.1).nbytes <= 8 * (m * d + m)
    assert GradientWindow(m, d, 0.1).nbytes <= 8 * (m * d + m * m)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_blocks_are_inverses_of_blocks(size: int) -> None:
    rng = np.random.default_rng(1)
    gradients = rng.standard_normal((10, 8))
    found = block_inverse(iter(gradients), 10, 8, size, 0.2)
    whole = dense(gradients, 0.2)
    for k, block in enumerate(found):
        part = whole[k * size : (k + 1) * size, k * size : (k + 1) * size]
        n = len(part)
        np.testing.assert_allclose(block[:n, :n], np.linalg.inv(part), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(block[n:, n:], np.eye(size - n) / 0.2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="damping is 0"):
        InverseFisher(np.ones((2, 3)), 0.0)
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        InverseFisher(np.ones((0, 3)), 1.0)
    with pytest.raises(ValueError, match="window 0"):
        GradientWindow(0, 3, 1.0)
    with pytest.raises(ValueError, match="1 gradients came, 2 were announced"):
        block_inverse([np.ones(3)], 2, 3, 2, 1.0)
    with pytest.raises(ValueError, match="size 0"):
        block_inverse([np.ones(3)], 1, 3, 0, 1.0)
