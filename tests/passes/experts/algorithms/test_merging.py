import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.experts.algorithms.merging import align, average, groups


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_alignment_is_the_best_of_all(units: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, target = rng.standard_normal((2, units, width))
    order = align(one, target)
    best = min(((one[list(p)] - target) ** 2).sum() for p in itertools.permutations(range(units)))
    assert np.isclose(((one[order] - target) ** 2).sum(), best)


def test_a_shuffled_expert_is_put_in_order() -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((40, 12))
    order = rng.permutation(40)
    assert np.array_equal(target[order][align(target[order], target)], target)


def test_the_dominant_lead_and_the_others_join_the_nearest() -> None:
    similarity = np.array(
        [[1, 0.2, 0.9, 0.1], [0.2, 1, 0.3, 0.8], [0.9, 0.3, 1, 0.7], [0.1, 0.8, 0.7, 1]]
    )
    assert groups(similarity, np.array([9, 1, 2, 5]), 2).tolist() == [0, 1, 0, 1]
    assert groups(similarity, np.array([9, 1, 2, 5]), 4).tolist() == [0, 1, 2, 3]
    assert groups(similarity, np.array([1, 1, 1, 1]), 1).tolist() == [0, 0, 0, 0]


def test_averages_are_weighted_by_counts() -> None:
    arrays = np.arange(12.0).reshape(3, 2, 2)
    counts = np.array([1, 0, 3])
    assert np.allclose(average(arrays, counts), (arrays[0] + 3 * arrays[2]) / 4)
    assert np.allclose(average(arrays, np.zeros(3)), arrays.mean(0))
