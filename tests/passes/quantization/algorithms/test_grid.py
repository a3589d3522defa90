import numpy as np
import pytest

from whet.passes.quantization.algorithms.grid import Grid, as_blocks, code_limits, grid_of


@pytest.mark.parametrize(
    ("bits", "symmetric", "full", "limits"),
    [
        (2, True, False, (-1, 1)),
        (2, True, True, (-2, 1)),
        (4, True, False, (-7, 7)),
        (8, True, True, (-128, 127)),
        (4, False, False, (0, 15)),
        (8, False, False, (0, 255)),
    ],
)
def test_limits(bits, symmetric, full, limits):
    assert code_limits(bits, symmetric=symmetric, full=full) == limits


def test_nearest_rounds_each_block_to_its_own_grid():
    grid = Grid(np.array([[1.0, 0.5]], np.float32), None, 3, 2)
    found = grid.nearest(np.array([[1.2, 9.0, 1.2, -0.26]], np.float32))
    assert found.codes.dtype == np.int8
    np.testing.assert_array_equal(found.codes, [[1, 3, 2, -1]])
    np.testing.assert_array_equal(found.values(), [[1.0, 3.0, 1.0, -0.5]])


def test_zero_points_shift_the_codes():
    grid = Grid(np.array([[0.5]], np.float32), np.array([[2]], np.uint8), 2, 3)
    found = grid.nearest(np.array([[-1.0, 0.0, 9.0]], np.float32))
    assert found.codes.dtype == np.uint8
    np.testing.assert_array_equal(found.codes, [[0, 2, 3]])
    np.testing.assert_array_equal(found.values(), [[-1.0, 0.0, 0.5]])


def test_the_last_block_may_be_shorter():
    np.testing.assert_array_equal(
        as_blocks(np.array([[1.0, 2.0, 3.0]]), 2), [[[1.0, 2.0], [3.0, 0.0]]]
    )


def test_a_grid_is_read_back_from_its_matrix():
    full = Grid(np.array([[1.0]], np.float32), None, 3, 2, full=True)
    assert grid_of(full.nearest(np.array([[-4.0, 1.0]], np.float32))) == full
    assert not grid_of(full.nearest(np.array([[-3.0, 1.0]], np.float32))).full
