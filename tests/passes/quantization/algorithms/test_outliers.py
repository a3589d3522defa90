import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Approximation, Layer, Outliers
from whet.passes.quantization.algorithms.codebooks import squeeze
from whet.passes.quantization.algorithms.outliers import keep_outliers, saliency
from whet.passes.quantization.algorithms.rounding import round_to_nearest


def layer(seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, 30)) @ np.diag(rng.lognormal(0, 1, 30))
    weights = rng.standard_t(2, (10, 30)).astype(np.float32)
    return Layer(weights, x.T @ x / 100)


def rounded(rest: Layer) -> Approximation:
    return round_to_nearest(rest, 3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), share=st.floats(0, 0.3))
def test_outliers_are_exact_and_counted(seed: int, share: float) -> None:
    given_ = layer(seed)
    found = keep_outliers(given_, share, rounded)
    dense, sparse = found.parts
    assert isinstance(sparse, Outliers)
    assert sparse.numbers.size == sparse.counts.sum() == round(share * 300)
    places = np.zeros((10, 30), bool)
    rows = np.repeat(np.arange(10), sparse.counts)
    places[rows, sparse.columns] = True
    values = found.values()
    assert np.allclose(values[places], given_.weights[places], rtol=1e-6)
    assert np.array_equal(values[~places], dense.values()[~places])
    ranks = saliency(given_)
    if places.any() and not places.all():
        assert ranks[places].min() >= ranks[~places].max()


def test_few_outliers_lower_the_error_a_lot() -> None:
    given_ = layer(1)
    plain = given_.error(rounded(given_))
    assert given_.error(keep_outliers(given_, 0.03, rounded)) < 0.7 * plain
    book = given_.error(squeeze(given_, 3))
    assert given_.error(keep_outliers(given_, 0.03, lambda rest: squeeze(rest, 3))) < book


def test_the_ranking() -> None:
    given_ = layer(2)
    squares = given_.weights.astype(np.float64) ** 2
    assert np.allclose(saliency(given_, "magnitude"), squares)
    assert np.allclose(saliency(dataclasses.replace(given_, gram=None)), squares)
    assert not np.allclose(saliency(given_), squares)


def test_none_and_too_many() -> None:
    given_ = layer(3)
    assert np.array_equal(keep_outliers(given_, 0.0, rounded).values(), rounded(given_).values())
    with pytest.raises(ValueError, match=r"share of outliers is 0\.6"):
        keep_outliers(given_, 0.6, rounded)
