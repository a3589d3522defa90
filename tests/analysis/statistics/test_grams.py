import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.analysis.statistics import Gram, NotFinite
from whet.analysis.statistics import grams as module
from whet.errors import CalibrationError


def gram_of(array: np.ndarray, options: Gram, *cuts: int) -> np.ndarray:
    found = options.start()
    for part in np.split(array, cuts):
        found.add(part)
    return found.result().matrix


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, -1]), st.integers(1, 5))
def test_the_mean_of_outer_products_along_any_axis(seed: int, axis: int, cut: int) -> None:
    array = np.random.default_rng(seed).standard_normal((6, 3, 4, 5)).astype(np.float32)
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).astype(np.float64)
    wanted = rows.T @ rows / len(rows)
    np.testing.assert_allclose(gram_of(array, Gram(axis), cut), wanted, rtol=1e-12, atol=1e-13)
    fast = gram_of(array, Gram(axis, exact=False), cut)
    np.testing.assert_allclose(fast, wanted, atol=1e-6 * np.abs(wanted).max())


def test_rows_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)
    array = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    wanted = array.astype(np.float64).T @ array.astype(np.float64) / 1000
    for exact in (True, False):
        np.testing.assert_allclose(gram_of(array, Gram(exact=exact)), wanted, rtol=1e-4, atol=1e-6)


def test_float64_sums_keep_what_float32_loses() -> None:
    array = np.asarray([[4096.0]] + [[0.5]] * 4000, np.float32)
    exact = (4096.0**2 + 4000 * 0.25) / 4001
    assert gram_of(array, Gram())[0, 0] == pytest.approx(exact, rel=1e-15)


def test_thinned_vectors_do_not_depend_on_batches() -> None:
    array = np.random.default_rng(0).standard_normal((6, 50, 4)).astype(np.float32)
    thinned = Gram(per_sample=10)
    rows = array[:, ::7].reshape(-1, 4).astype(np.float64)
    for cuts in ((), (1, 4)):
        found = gram_of(array, thinned, *cuts)
        np.testing.assert_allclose(found, rows.T @ rows / len(rows), rtol=1e-12)


def test_wrong_data() -> None:
    found = Gram().start()
    with pytest.raises(CalibrationError, match="no batch was seen"):
        found.result()
    found.add(np.ones((2, 3), np.float32))
    with pytest.raises(CalibrationError, match="vectors of 4 numbers, 3 before"):
        found.add(np.ones((2, 4), np.float32))
    with pytest.raises(NotFinite):
        found.add(np.full((2, 3), np.nan, np.float32))
