"""The empirical Fisher matrix of each row, steadied by the Gram matrix of its inputs.

The Optimal BERT Surgeon (Kurtic et al. 2022) inverts F = damping I + mean g gᵀ in blocks along the diagonal; a block is
a row here, or a part of one. A few thousand gradients of hundreds of weights are noisy, and a multiple of I is the
wrong thing to believe in where they say nothing: for a linear layer the expected shape of a row's block is the Gram
matrix A of the inputs (with gradients independent of inputs F = G_oo A; Martens & Grosse 2015). So

    H_o = (1 - t) F_o + t (tr F_o / tr A) A

with t chosen by what the pruned network does on samples held out.
"""

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles
from whet.passes.sparsity.algorithms.recovery import damped

__all__ = ["FisherBlocks", "block_size", "steadied"]

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
_LEAST_DAMPING = 1e-4


def block_size(outputs: int, inputs: int, limit: int, unit: int = 1) -> int:
    """Return the largest divisor of a row, in whole units, whose blocks take at most ``limit`` bytes together."""
    sizes = [d for d in range(unit, inputs + 1, unit) if inputs % d == 0]
    fitting = [d for d in sizes if 4 * outputs * inputs * d <= limit]
    return max(fitting, default=unit)


class FisherBlocks:
    """Sums of g gᵀ for blocks of ``size`` weights in a row."""

    def __init__(self, outputs: int, inputs: int, size: int) -> None:
        """Start with nothing; ``size`` must divide ``inputs``."""
        if inputs % size:
            raise ValueError(f"blocks of {size} do not divide rows of {inputs}")
        self._total: Floats = np.zeros((outputs * (inputs // size), size, size), np.float32)
        self._size = size
        self._samples = 0

    def add(self, gradients: Array, samples: int) -> None:
        """Add gradients ``[count, outputs, inputs]``, each the sum over independent draws of some samples."""
        rows: Floats = np.asarray(gradients, np.float32)
        parts = rows.reshape(len(rows), -1, self._size).transpose(1, 2, 0)
        self._total += parts @ parts.transpose(0, 2, 1)
        self._samples += samples

    def mean(self) -> Doubles:
        """Return the mean over samples, ``[blocks, size, size]``."""
        return np.asarray(self._total / np.float32(max(self._samples, 1)), np.float64)


def steadied(fisher: Doubles, gram: Doubles, trust: float) -> Doubles:
    """Return the positive definite mixture of blocks with the Gram matrix, ``trust`` being the share of the latter.

    ``gram`` is that of whole rows, whose blocks along the diagonal are meant.
    """
    size = fisher.shape[-1]
    count = len(gram) // size
    parts = np.stack(
        [gram[k * size : (k + 1) * size, k * size : (k + 1) * size] for k in range(count)]
    )
    scale = _trace(fisher).reshape(-1, count) / np.maximum(_trace(parts), np.finfo(float).tiny)
    shape = (scale[:, :, None, None] * parts).reshape(fisher.shape)
    return damped((1 - trust) * fisher + trust * shape, _LEAST_DAMPING)


def _trace(matrices: Doubles) -> Doubles:
    return np.asarray(np.trace(matrices, axis1=-2, axis2=-1))
