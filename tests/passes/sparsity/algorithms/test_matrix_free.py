import numpy as np
import pytest

from whet.analysis.curvature.mfac import InverseFisher
from whet.passes.sparsity.algorithms.matrix_free import inverse_diagonal, moved, prices

RNG = np.random.default_rng(0)
GRADIENTS = RNG.standard_normal((20, 150)).astype(np.float32)
WEIGHTS = RNG.standard_normal(150)
EVERY = np.ones(150, np.bool)


def fisher(places: np.ndarray, damping: float) -> np.ndarray:
    wide = GRADIENTS[:, places].astype(np.float64)
    return damping * np.eye(wide.shape[1]) + wide.T @ wide / len(wide)


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_the_diagonal_is_that_of_the_static_algorithm(damping: float) -> None:
    wanted = InverseFisher(GRADIENTS, damping).diagonal()
    assert np.allclose(inverse_diagonal(GRADIENTS, EVERY, damping), wanted, rtol=1e-5)


def test_what_is_gone_does_not_count() -> None:
    alive = RNG.random(150) < 0.7
    found = prices(WEIGHTS, GRADIENTS, alive, 0.1)
    wanted = 0.5 * WEIGHTS[alive] ** 2 / np.diagonal(np.linalg.inv(fisher(alive, 0.1)))
    assert np.allclose(found[alive], wanted, rtol=1e-5)
    assert np.isinf(found[~alive]).all()


def test_the_rest_moves_to_the_least_of_the_quadratic() -> None:
    gone = RNG.random(150) < 0.4
    found = moved(WEIGHTS, GRADIENTS, EVERY, gone, 0.1)
    square = fisher(EVERY, 0.1)
    assert not found[gone].any()
    slope = square @ (found - WEIGHTS)
    assert np.abs(slope[~gone]).max() < 1e-5 * np.abs(slope).max()


def test_what_went_before_stays_away() -> None:
    alive = RNG.random(150) < 0.8
    gone = alive & (RNG.random(150) < 0.3)
    found = moved(np.where(alive, WEIGHTS, 0), GRADIENTS, alive, gone, 0.1)
    assert not found[~alive].any()
    assert not found[gone].any()
