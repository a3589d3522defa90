import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from whet.analysis.statistics import Counts, Histogram, NotFinite
from whet.analysis.statistics.base import thin
from whet.analysis.statistics.histograms import count

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
ARRAYS = nps.arrays(np.float32, st.integers(1, 40), elements=NUMBERS)


def same(one: Counts, other: Counts) -> bool:
    a, b = dataclasses.asdict(one), dataclasses.asdict(other)
    return np.array_equal(a.pop("numbers"), b.pop("numbers")) and a == b


@given(ARRAYS, ARRAYS, ARRAYS, st.sampled_from([2, 5, 64, 4096]))
def test_merged_histograms_are_that_of_everything(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, bins: int
) -> None:
    whole = count(np.concatenate([x, y, z]), bins)
    a, b, c = (count(part, bins) for part in (x, y, z))
    assert same(a.merged(b).merged(c), whole)
    assert same(c.merged(b.merged(a)), whole)


@given(ARRAYS, st.sampled_from([2, 64]))
def test_every_number_is_in_its_bin(x: np.ndarray, bins: int) -> None:
    found = count(x, bins)
    assert found.total == x.size
    assert len(found.numbers) <= bins
    assert (found.low, found.high) == (x.min(), x.max())
    assert found.zeros == np.sum(x == 0)
    edges = (found.first + np.arange(len(found.numbers) + 1)) * found.width
    for k, number in enumerate(found.numbers):
        assert number == np.sum((x >= edges[k]) & (x < edges[k + 1]))


def test_the_bins_are_as_narrow_as_their_number_allows() -> None:
    found = count(np.linspace(0, 1, 1000, dtype=np.float32), 64)
    assert found.width == 1 / 32
    assert len(found.numbers) == 33


def test_numbers_that_are_all_alike() -> None:
    assert count(np.zeros(5, np.float32)).zeros == 5
    found = count(np.full(3, 7.5, np.float32))
    assert found.numbers.tolist() == [3]
    assert found.first * found.width <= 7.5 <= (found.first + 1) * found.width


@pytest.mark.parametrize("per_sample", [0, 10])
def test_the_batches_do_not_matter(per_sample: int) -> None:
    array = np.random.default_rng(0).standard_normal((12, 5, 7)).astype(np.float32)
    results: list[Counts] = []
    for size in (1, 5, 12):
        found = Histogram(64, per_sample).start()
        for start in range(0, 12, size):
            found.add(array[start : start + size])
        results.append(found.result())
    assert all(same(results[0], other) for other in results)
    assert results[0].total == 12 * (35 if not per_sample else 9)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_thinning_visits_about_as_many_as_wanted_and_all_residues(size: int, most: int) -> None:
    step = thin(size, most)
    assert -(-size // step) <= most
    assert np.gcd(step, size) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_noticed(bad: float) -> None:
    with pytest.raises(NotFinite):
        Histogram().start().add(np.asarray([0, bad], np.float32))
