import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.sparsity.algorithms.encoding import (
    Bitmask,
    Distances,
    background_of,
    encode,
    places_of,
)

TYPES = (np.float32, np.float16, np.int8, np.uint8, np.int32, ml_dtypes.bfloat16)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 3)),
    st.floats(0, 1),
    st.integers(0, 1 << 16),
)
def test_every_bit_comes_back(kind: type, shape: tuple[int, ...], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = (rng.integers(-9, 9, shape) * (rng.random(shape) < share)).astype(kind)
    found = encode(array, background_of(array))
    assert found.values().tobytes() == array.tobytes()
    assert found.values().shape == array.shape


@pytest.mark.parametrize(("share", "form"), [(0.5, Bitmask), (0.1, Distances), (0.01, Distances)])
def test_the_smaller_form_is_taken(share: float, form: type) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((64, 256)).astype(np.float32)
    array[rng.random(array.shape) >= share] = 0
    found = encode(array, background_of(array))
    assert isinstance(found, form)
    share = np.count_nonzero(array) / array.size
    assert found.nbytes <= array.nbytes * (share + 1 / 32) + 4
    assert found.values().tobytes() == array.tobytes()


@pytest.mark.parametrize(("height", "width"), [(1, 4), (4, 1), (4, 4), (16, 1)])
def test_blocks_take_one_bit_each(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    kept = rng.random((64 // height, 256 // width)) < 0.5
    mask = np.repeat(np.repeat(kept, height, 0), width, 1)
    array = np.where(mask, rng.standard_normal(mask.shape), 0).astype(np.float32)
    found = encode(array, background_of(array))
    assert isinstance(found, Bitmask)
    assert (found.height, found.width) == (height, width)
    assert found.nbytes == kept.size // 8 + 4 * (kept.sum() + 1) * height * width
    assert found.values().tobytes() == array.tobytes()


def test_places_far_apart_take_entries_on_the_way() -> None:
    array = np.zeros(3000, np.float32)
    array[[1500, 2999]] = 2.0, -1.0
    found = encode(array, background_of(array))
    assert isinstance(found, Distances)
    assert found.gap_bits == 8
    assert len(found.gaps) == 12
    assert found.nbytes == 12 + 48
    assert found.values().tobytes() == array.tobytes()


def test_zeros_of_both_signs_and_other_numbers_that_fill() -> None:
    array = np.asarray([0.0, -0.0, np.nan, 3.0, 3.0, 3.0], np.float32)
    background = background_of(array)
    assert background == 3.0
    assert places_of(array, background).tolist() == [True, True, True, False, False, False]
    zeros = np.asarray([0.0, -0.0, 0.0], np.float32)
    assert places_of(zeros, background_of(zeros)).tolist() == [False, True, False]


def test_nothing_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"shape \[0, 3\] has nothing"):
        encode(np.zeros((0, 3), np.float32), np.zeros((), np.float32))
