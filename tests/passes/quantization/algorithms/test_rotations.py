import numpy as np
import pytest

from whet.passes.quantization.algorithms.rotations import (
    centering,
    hadamard,
    principal_axes,
    random_orthogonal,
)


@pytest.mark.parametrize("size", [1, 2, 7, 12, 64, 96])
@pytest.mark.parametrize("make", [hadamard, random_orthogonal])
def test_orthogonal_and_seeded(make, size: int) -> None:
    q = make(size, np.random.default_rng(3))
    assert np.allclose(q @ q.T, np.eye(size), atol=1e-12)
    assert np.array_equal(q, make(size, np.random.default_rng(3)))


def test_hadamard_spreads_one_channel_evenly() -> None:
    q = hadamard(64, np.random.default_rng(0))
    assert np.allclose(np.abs(q), 1 / 8)
    odd = hadamard(96, np.random.default_rng(0))
    assert np.abs(odd).max() < 0.2


def test_principal_axes_diagonalize() -> None:
    x = np.random.default_rng(0).standard_normal((50, 6)) * np.arange(1, 7)
    gram = x.T @ x
    q = principal_axes(gram)
    turned = q.T @ gram @ q
    assert np.allclose(turned, np.diag(np.diagonal(turned)), atol=1e-8 * turned.max())
    assert (np.diff(np.diagonal(turned)) <= 0).all()


def test_centering() -> None:
    x = np.random.default_rng(0).standard_normal((5, 6))
    assert np.allclose(x @ centering(6), x - x.mean(1, keepdims=True))
