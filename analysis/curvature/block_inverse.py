"""The inverse of the empirical Fisher matrix in blocks along its diagonal (oBERT; Kurtic et al. 2022).

Weights are cut into runs of ``size``; what couples different runs is neglected. For each block

    F = damping I + (1 / m) sum_i g_i g_iᵀ

is inverted by m updates of rank one (Woodbury), all blocks at once, so that gradients stream through:

    F⁻¹ <- F⁻¹ - (F⁻¹ g)(F⁻¹ g)ᵀ / (m + gᵀ F⁻¹ g)
"""

from collections.abc import Iterable

import numpy as np

from whet.ir.array import Array

__all__ = ["block_inverse"]

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def block_inverse(
    gradients: Iterable[Array], count: int, dimension: int, size: int, damping: float
) -> Doubles:
    """Return ``[blocks, size, size]`` inverses from ``count`` gradients ``[dimension]``.

    A last block that is not full is that of zero gradients in the missing places: 1 / damping on its diagonal there.

    Raises:
        ValueError: a damping, count or size that is not positive, or another number of gradients than ``count``.
    """
    if damping <= 0 or count < 1 or size < 1:
        raise ValueError(f"damping {damping:g}, count {count} and size {size} must be positive")
    blocks = -(-dimension // size)
    inverse: Doubles = np.tile(np.eye(size) / damping, (blocks, 1, 1))
    padded: Doubles = np.zeros(blocks * size)
    seen = 0
    for gradient in gradients:
        padded[:dimension] = gradient
        g = padded.reshape(blocks, size)
        along: Doubles = np.einsum("bij,bj->bi", inverse, g)
        length: Doubles = count + np.einsum("bi,bi->b", g, along)
        along /= np.sqrt(length)[:, None]
        inverse -= along[:, :, None] * along[:, None, :]
        seen += 1
    if seen != count:
        raise ValueError(f"{seen} gradients came, {count} were announced")
    return inverse
