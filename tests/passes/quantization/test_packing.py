import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import packed_bytes
from whet.passes.quantization.packing import pack, place_values, unpack


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 8), count=st.integers(0, 70), signed=st.booleans(), seed=st.integers(0, 99)
)
def test_what_is_packed_comes_back(bits: int, count: int, signed: bool, seed: int) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    codes = np.random.default_rng(seed).integers(low, high, count)
    codes = codes.astype(np.int8 if signed else np.uint8)
    packed = pack(codes, bits)
    assert packed.nbytes == -(-count // 8) * bits < packed_bytes(count, bits) + 8
    found = unpack(packed, bits, count, signed=signed)
    assert found.dtype == codes.dtype
    assert np.array_equal(found, codes)


def test_a_full_group_has_no_gaps() -> None:
    codes = np.asarray([7, 0, 1, 2, 3, 4, 5, 6], np.uint8)
    assert pack(codes, 3).nbytes == packed_bytes(8, 3) == 3


def test_place_values() -> None:
    assert place_values(3, signed=True).reshape(-1).tolist() == [1, 2, -4]
    assert place_values(8, signed=True)[-1] == -128
    assert place_values(8, signed=False)[-1] == 128


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="codes from -5 to 3 do not fit into 3 bits, -4 to 3"):
        pack(np.asarray([-5, 3], np.int8), 3)
