import numpy as np
import pytest

from whet.analysis.curvature.block_inverse import block_inverse
from whet.passes.sparsity.algorithms.fisher_blocks import FisherBlocks, block_size, steadied

RNG = np.random.default_rng(0)


def test_blocks_are_those_of_the_running_inverse() -> None:
    gradients = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    blocks = FisherBlocks(3, 8, 4)
    blocks.add(gradients[:24], 24)
    blocks.add(gradients[24:], 16)
    wanted = block_inverse(gradients.reshape(40, -1), 40, 24, 4, 0.1)
    assert np.allclose(np.linalg.inv(blocks.mean() + 0.1 * np.eye(4)), wanted, rtol=1e-4)


def test_sums_over_several_samples_count_as_these() -> None:
    gradients = RNG.standard_normal((10, 2, 4)).astype(np.float32)
    blocks = FisherBlocks(2, 4, 4)
    blocks.add(gradients, 30)
    wanted = np.einsum("mri,mrj->rij", gradients, gradients) / 30
    assert np.allclose(blocks.mean(), wanted, rtol=1e-5)


def test_the_gram_matrix_steadies_with_the_trace_of_the_block() -> None:
    x = RNG.standard_normal((50, 8))
    gram = x.T @ x / 50
    fisher = np.stack([np.outer(g, g) for g in RNG.standard_normal((6, 4))])
    found = steadied(fisher, gram, 0.5)
    assert found.shape == (6, 4, 4)
    assert (np.linalg.eigvalsh(found) > 0).all()
    traces = np.trace(fisher, axis1=1, axis2=2)
    assert np.trace(found, axis1=1, axis2=2) == pytest.approx(traces, rel=1e-3)
    whole = steadied(fisher, gram, 1.0)
    shape = gram[4:, 4:] * traces[1] / np.trace(gram[4:, 4:])
    assert np.allclose(whole[1], shape, rtol=1e-3, atol=1e-3 * traces[1])


def test_sizes_divide_rows_and_fit() -> None:
    assert block_size(16, 144, 1 << 30) == 144
    assert block_size(16, 144, 4 * 16 * 144 * 50) == 48
    assert block_size(16, 144, 1, unit=4) == 4
    with pytest.raises(ValueError, match="blocks of 5 do not divide rows of 8"):
        FisherBlocks(2, 8, 5)
