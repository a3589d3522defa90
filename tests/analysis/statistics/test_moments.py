import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.analysis.statistics import Moments, NotFinite
from whet.analysis.statistics import moments as module


@given(st.integers(0, 2**31), st.sampled_from([None, 0, 1, 2, -1]), st.floats(-1e4, 1e4))
def test_batches_merge_to_mean_and_variance(seed: int, axis: int | None, shift: float) -> None:
    array = (np.random.default_rng(seed).standard_normal((9, 4, 5)) + shift).astype(np.float32)
    parts = [array] if axis == 0 else [array[:2], array[2:3], array[3:]]
    found = Moments(axis).start()
    for part in parts:
        found.add(part)
    spread = found.result()
    others = None if axis is None else tuple(k for k in range(3) if k != axis % 3)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(spread.mean, exact.mean(others), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(spread.variance, exact.var(others), rtol=1e-9)
    assert spread.count == array.size // (1 if axis is None else array.shape[axis])


def test_large_values_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    array = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
    found = Moments(1).start()
    found.add(array)
    np.testing.assert_allclose(found.result().variance, array.astype(np.float64).var((0, 2)))


def test_what_is_not_finite_is_noticed() -> None:
    with pytest.raises(NotFinite):
        Moments().start().add(np.asarray([1, np.nan], np.float32))
