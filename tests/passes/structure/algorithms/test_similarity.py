import numpy as np
import pytest

from whet.passes.structure.algorithms.similarity import Closeness


def test_cosine_and_error_over_batches() -> None:
    x = np.asarray([[1.0, 0.0], [0.0, 2.0]])
    y = np.asarray([[1.0, 1.0], [0.0, 3.0]])
    found = Closeness()
    for k in range(2):
        found.add(x[k : k + 1], y[k : k + 1])
    assert found.cosine == pytest.approx((1 / np.sqrt(2) + 1) / 2)
    assert found.error == pytest.approx(np.sqrt(2 / 11))


def test_channels_may_lie_elsewhere() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    first, second = Closeness(1), Closeness()
    first.add(x, x + 1)
    second.add(np.moveaxis(x, 1, -1), np.moveaxis(x + 1, 1, -1))
    assert first.cosine == pytest.approx(second.cosine)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes \[2, 3\] and \[2, 4\] differ"):
        Closeness().add(np.zeros((2, 3)), np.zeros((2, 4)))
