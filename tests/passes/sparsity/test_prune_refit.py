"""The least-squares fit of what reads a pruned layer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.sparsity.prune_refit import Moments, refit


def moments_of(seed: int, rows: int = 64) -> tuple[Moments, np.ndarray, np.ndarray]:
    """Draw inputs of which half go, and what the output lacks without them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, 8))
    weights = rng.standard_normal((5, 8))
    found = Moments.start(4, 5)
    lacking = x[:, 4:] @ weights[:, 4:].T
    found.add(x[:, :4], lacking, x @ weights.T)
    return found, x[:, :4], lacking


@given(st.integers(0, 1000))
def test_is_the_least_squares_solution(seed: int) -> None:
    """Without damping it is what numpy's solver finds."""
    found, x, lacking = moments_of(seed)
    expected = np.linalg.lstsq(x, lacking, rcond=None)[0].T
    np.testing.assert_allclose(refit(found, 1e-12), expected, rtol=1e-5, atol=1e-7)


@given(st.integers(0, 1000))
def test_error_is_that_of_the_rows(seed: int) -> None:
    """The error from moments is the error counted row by row, and the fit lowers it."""
    found, x, lacking = moments_of(seed)
    change = refit(found)
    direct = float(np.square(lacking - x @ change.T).sum()) / found.wanted
    np.testing.assert_allclose(found.error(change), direct, rtol=1e-8)
    assert found.error(change) <= found.error()
    assert found.rows == 64


def test_damping_draws_to_no_change() -> None:
    """With much of it nothing changes."""
    found, _, _ = moments_of(3)
    assert np.abs(refit(found, 1e9)).max() < 1e-6
