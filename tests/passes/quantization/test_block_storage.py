import numpy as np
import pytest

from whet.passes.quantization.algorithms.approximation import Blocks, Layer
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.block_storage import kernel_size, pack, store


def rounded(bits: int, shape: tuple[int, int], size: int, *, symmetric: bool = True) -> Blocks:
    matrix = np.random.default_rng(bits).standard_normal(shape).astype(np.float32)
    return round_to_nearest(Layer(matrix), bits, size, symmetric=symmetric, full=True)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_lie_low_bits_first(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, 16)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, 16 * bits // 8)
    share = 8 // bits
    for k in range(share):
        assert np.array_equal((packed >> (bits * k)) & (2**bits - 1), codes[:, k::share])


def test_a_row_ends_with_a_whole_byte() -> None:
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_stored_is_counted(bits: int, symmetric: bool) -> None:
    stored = store(rounded(bits, (6, 96), 32, symmetric=symmetric))
    zeros = 0 if symmetric else 6 * -(-3 * bits // 8)
    assert stored.nbytes == 6 * 96 * bits // 8 + 6 * 3 * 4 + zeros
    assert stored.is_full


def test_the_last_block_is_filled_up_with_zeros() -> None:
    stored = store(rounded(4, (5, 40), 32))
    assert stored.codes.shape == (5, 2, 16)
    assert not stored.is_full
    assert (stored.codes[:, 1, 4:] == 0x88).all()


@pytest.mark.parametrize(
    ("size", "inputs", "expected"), [(32, 384, 32), (128, 100, 128), (256, 20, 32), (64, 3, 16)]
)
def test_a_block_is_no_larger_than_it_takes(size: int, inputs: int, expected: int) -> None:
    assert kernel_size(size, inputs) == expected


@pytest.mark.parametrize(("bits", "size", "reason"), [(3, 32, "3 bits"), (4, 24, "24 inputs")])
def test_what_no_kernel_reads_is_refused(bits: int, size: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        store(rounded(bits, (4, 96), size))
