import numpy as np
import pytest

from whet.passes.quantization.algorithms.inverse import inverse_diagonal


def test_it_is_the_diagonal_of_the_inverse() -> None:
    x = np.random.default_rng(0).standard_normal((30, 8))
    gram = x.T @ x / 30
    damped = gram + 0.01 * np.diagonal(gram).mean() * np.eye(8)
    assert np.allclose(inverse_diagonal(gram), np.diagonal(np.linalg.inv(damped)))


def test_inputs_that_were_never_seen_are_independent() -> None:
    gram = np.diag([4.0, 0.0, 1.0])
    found = inverse_diagonal(gram, 0.0)
    assert np.allclose(found, [1 / 4, 1 / 2.5, 1.0])
    assert np.allclose(inverse_diagonal(np.zeros((2, 2))), 1.0)


def test_what_is_no_gram_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive semidefinite"):
        inverse_diagonal(np.asarray([[1.0, 1e9], [1e9, 1.0]]))
