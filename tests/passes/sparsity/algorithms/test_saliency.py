import numpy as np

from whet.passes.sparsity.algorithms.saliency import magnitude, wanda


def test_wanda_is_magnitude_times_the_norm_of_the_input() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((50, 6)), rng.standard_normal((3, 6))
    scores = np.abs(weights) * np.linalg.norm(x, axis=0)
    assert np.allclose(wanda(weights, x.T @ x), scores**2)
    assert np.allclose(magnitude(weights), weights**2)
