import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from whet.analysis.statistics import Extremes, MaxMagnitude, NotFinite
from whet.errors import CalibrationError

ARRAYS = nps.arrays(
    np.float32,
    nps.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32),
)


@given(ARRAYS, st.integers(0, 4), st.data())
def test_batches_do_not_matter(array: np.ndarray, cut: int, data: st.DataObject) -> None:
    axis = data.draw(st.one_of(st.none(), st.integers(1, array.ndim - 1)))
    others = tuple(k for k in range(array.ndim) if k != axis)
    found = Extremes(axis).start()
    for part in (array[:cut], array[cut:]):
        if part.size:
            found.add(part)
    bounds = found.result()
    wanted = (array.min(), array.max()) if axis is None else (array.min(others), array.max(others))
    assert np.array_equal(bounds.low, wanted[0])
    assert np.array_equal(bounds.high, wanted[1])


@given(ARRAYS)
def test_the_largest_magnitude_of_each_channel(array: np.ndarray) -> None:
    found = MaxMagnitude(1).start()
    found.add(array)
    others = tuple(k for k in range(array.ndim) if k != 1)
    assert np.array_equal(found.result(), np.abs(array).max(others))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_what_is_not_finite_is_noticed(bad: float, axis: int | None) -> None:
    array = np.ones((4, 33), np.float32)
    array[2, 17] = bad
    with pytest.raises(NotFinite):
        Extremes(axis).start().add(array)


def test_channels_must_agree() -> None:
    found = Extremes(1).start()
    found.add(np.ones((2, 3), np.float32))
    with pytest.raises(CalibrationError, match="4 channels along axis 1, 3 before"):
        found.add(np.ones((2, 4), np.float32))
