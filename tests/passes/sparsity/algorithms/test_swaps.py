import itertools

import numpy as np
import pytest

from whet.passes.sparsity.algorithms.recovery import masked_least_squares
from whet.passes.sparsity.algorithms.swaps import exchange, loss_of_mask

RNG = np.random.default_rng(0)


def hessian(inputs: int) -> np.ndarray:
    x = RNG.standard_normal((4 * inputs, inputs)) @ RNG.standard_normal((inputs, inputs))
    return x.T @ x / len(x)


def test_the_loss_is_that_of_the_closed_form() -> None:
    square, weights = hessian(9), RNG.standard_normal(9)
    keep = np.asarray([1, 0, 1, 1, 0, 0, 1, 0, 1], np.bool)
    best = masked_least_squares(weights[None], square, keep[None])[0] - weights
    assert loss_of_mask(weights, square, keep) == pytest.approx(
        0.5 * best @ square @ best, rel=1e-5
    )


def test_no_exchange_of_two_is_left_that_gains_alone() -> None:
    square, weights = hessian(8), RNG.standard_normal((6, 8))
    start = np.tile(np.asarray([1, 0] * 4, np.bool), (6, 1))
    found = exchange(weights, square, start)
    improved = 0
    for row, before, after in zip(weights, start, found, strict=True):
        assert after.sum() == 4
        losses = [loss_of_mask(row, square, mask) for mask in (before, after)]
        assert losses[1] <= losses[0]
        improved += losses[1] < losses[0]
        every = [
            loss_of_mask(row, square, np.isin(np.arange(8), places))
            for places in itertools.combinations(range(8), 4)
        ]
        assert losses[1] <= np.quantile(every, 0.2)
    assert improved >= 4


def test_groups_keep_their_number() -> None:
    square, weights = hessian(8), RNG.standard_normal((6, 8))
    start = np.tile(np.asarray([1, 1, 0, 0] * 2, np.bool), (6, 1))
    found = exchange(weights, square, start, members=4)
    assert (found.reshape(6, 2, 4).sum(-1) == 2).all()
    assert (found != start).any()


def test_nothing_to_exchange() -> None:
    square, weights = hessian(4), RNG.standard_normal((2, 4))
    keep = np.asarray([[1, 1, 1, 1], [0, 0, 0, 0]], np.bool)
    assert (exchange(weights, square, keep) == keep).all()
