import numpy as np
import pytest

from whet.passes.sparsity.algorithms.recovery import damped, masked_least_squares


def drawn(rows: int, inputs: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * inputs, inputs)) + 0.5 * rng.standard_normal((3 * inputs, 1))
    weights = rng.standard_normal((rows, inputs))
    return weights, x, rng.random((rows, inputs)) < 0.4


def test_rows_are_regressions_on_what_stays() -> None:
    weights, x, keep = drawn(5, 20)
    found = masked_least_squares(weights, x.T @ x, keep)
    for row in range(5):
        wanted = np.linalg.lstsq(x[:, keep[row]], x @ weights[row], rcond=None)[0]
        assert np.allclose(found[row][keep[row]], wanted, atol=1e-5)
        assert not found[row][~keep[row]].any()


def test_inputs_that_have_changed() -> None:
    weights, x, keep = drawn(5, 20)
    now = x + 0.3 * np.random.default_rng(1).standard_normal(x.shape)
    found = masked_least_squares(weights, now.T @ now, keep, weights @ (x.T @ now))
    for row in range(5):
        wanted = np.linalg.lstsq(now[:, keep[row]], x @ weights[row], rcond=None)[0]
        assert np.allclose(found[row][keep[row]], wanted, atol=1e-5)


def test_large_layers_are_solved_alike() -> None:
    weights, x, keep = drawn(3, 700)
    hessian = damped(x.T @ x / len(x), 0.01)
    found = masked_least_squares(weights, hessian, keep)
    for row in range(3):
        inside = np.flatnonzero(keep[row])
        right = (weights[row] @ hessian)[inside]
        wanted = np.linalg.solve(hessian[np.ix_(inside, inside)], right)
        assert np.allclose(found[row][inside], wanted, atol=1e-4)


def test_matrices_by_row() -> None:
    weights, x, keep = drawn(2, 10)
    _, other, _ = drawn(2, 10, seed=3)
    both = np.stack([x.T @ x, other.T @ other])
    found = masked_least_squares(weights, both, keep)
    for row in range(2):
        alone = masked_least_squares(weights[row : row + 1], both[row], keep[row : row + 1])
        assert np.allclose(found[row], alone[0], atol=1e-6)


def test_damping_is_a_share_of_what_was_seen() -> None:
    found = damped(np.diag([4.0, 2.0, 0.0]), 0.1)
    assert np.diagonal(found) == pytest.approx([4.3, 2.3, 3.0])
    assert np.diagonal(damped(np.zeros((2, 2)), 0.1)) == pytest.approx([1.0, 1.0])
