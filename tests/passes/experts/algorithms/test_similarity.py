import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.experts.algorithms.similarity import (
    correlation,
    dissimilarity,
    objective,
    representatives,
)


def test_correlation_is_that_of_numpy() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 4))
    assert np.allclose(correlation(logits), np.corrcoef(logits.T))
    logits[:, 2] = 3.0
    found = correlation(logits)
    assert found[2, 2] == 1.0
    assert found[2, 0] == 0.0


def test_dissimilarity_is_what_it_says() -> None:
    rng = np.random.default_rng(1)
    logits, outputs = rng.standard_normal((20, 3)), rng.standard_normal((3, 20, 5))
    found = dissimilarity(logits, outputs)
    rho = np.corrcoef(logits.T)
    for i, j in itertools.permutations(range(3), 2):
        gap = ((outputs[i] - outputs[j]) ** 2).sum()
        share = gap / (2 * ((outputs[i] ** 2).sum() + (outputs[j] ** 2).sum()))
        assert found[i, j] == pytest.approx((1 - rho[i, j]) / 2 + share)
    assert np.allclose(np.diagonal(found), 0)


def test_twins_are_not_apart() -> None:
    rng = np.random.default_rng(2)
    logits, outputs = rng.standard_normal((20, 3)), rng.standard_normal((3, 20, 5))
    logits[:, 2], outputs[2] = logits[:, 0], outputs[0]
    assert dissimilarity(logits, outputs)[0, 2] == pytest.approx(0, abs=1e-12)


def naive(distances: np.ndarray, mass: np.ndarray, count: int) -> float:
    """The least objective over all choices."""
    choices = itertools.combinations(range(len(distances)), count)
    return min(
        sum(mass[i] * min(distances[i, r] for r in kept) for i in range(len(distances)))
        for kept in choices
    )


@given(st.integers(2, 6), st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_representatives_come_close_to_the_best(size: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size))
    rng = np.random.default_rng(seed)
    distances = rng.uniform(0, 2, (size, size))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    mass = rng.integers(0, 9, size).astype(float)
    kept = representatives(distances, mass, count)
    assert len(set(kept.tolist())) == count
    assert (np.diff(kept) > 0).all()
    found, best = objective(distances, mass, kept), naive(distances, mass, count)
    assert best - 1e-9 <= found
    for one, other in itertools.product(kept, range(size)):
        swap = np.array([other if k == one else k for k in kept])
        assert found <= objective(distances, mass, swap) + 1e-9


def test_clusters_are_found() -> None:
    places = np.array([0.0, 0.1, 5.0, 5.2, 9.0])
    distances = np.abs(places[:, None] - places)
    kept = representatives(distances, np.array([1.0, 9.0, 4.0, 1.0, 1.0]), 3)
    assert kept.tolist() == [1, 2, 4]
