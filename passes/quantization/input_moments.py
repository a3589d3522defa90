"""What a product sees of its input: mean and Gram matrix of the vectors that its weights are multiplied with.

For a convolution these are the patches under its kernel, by group; for a matrix product the rows of its input.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir

from whet.analysis.statistics import Accumulator, PatchGram, Statistic
from whet.analysis.statistics.patches import patches
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Doubles

__all__ = ["InputMoments", "Moments", "Seen", "moments_of"]

_PER_SAMPLE = 256
"""Places of each sample that are looked at, evenly spaced."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean x and mean x xᵀ of one group's inputs."""

    mean: Doubles
    gram: Doubles

    @property
    def covariance(self) -> Doubles:
        """Return E[x xᵀ] - E[x] E[x]ᵀ."""
        return np.asarray(self.gram - np.outer(self.mean, self.mean))


@dataclasses.dataclass(frozen=True)
class Seen:
    """Moments by group: of the data to fit on, and of those to judge by."""

    fit: tuple[Moments, ...]
    judge: tuple[Moments, ...]


@dataclasses.dataclass(frozen=True)
class InputMoments(Statistic[tuple[Moments, ...]]):
    """Ask for the moments of patches, or of vectors along the last axis where there is no kernel."""

    places: PatchGram | None = None

    def start(self) -> Accumulator[tuple[Moments, ...]]:
        """Return sums of nothing."""
        return _Sums(self)

    def vectors(self, array: Array) -> Iterator[Array]:
        """Yield ``[count, inputs]`` for each group."""
        if self.places is not None:
            yield from patches(array, self.places)
            return
        rows = array.reshape(len(array), -1, array.shape[-1])
        step = max(1, rows.shape[1] // _PER_SAMPLE)
        yield rows[:, ::step].reshape(-1, array.shape[-1])


class _Sums(Accumulator[tuple[Moments, ...]]):
    def __init__(self, asked: InputMoments) -> None:
        self._asked = asked
        self._sums: list[tuple[Doubles, Doubles, int]] = []

    def add(self, array: Array) -> None:
        fresh = [
            (np.sum(x, 0, dtype=np.float64), np.asarray(np.matmul(x.T, x), np.float64), len(x))
            for x in self._asked.vectors(array)
        ]
        old = self._sums or [(np.zeros(1), np.zeros(1), 0)] * len(fresh)
        self._sums = [
            (a + c, b + d, m + n) for (a, b, m), (c, d, n) in zip(old, fresh, strict=True)
        ]

    def result(self) -> tuple[Moments, ...]:
        return tuple(Moments(first / n, second / n) for first, second, n in self._sums)


def moments_of(node: onnx_ir.Node) -> InputMoments | None:
    """Return what to ask for, or None where weights are not multiplied with vectors of the input."""
    if node.op_type in ("MatMul", "Gemm"):
        return InputMoments()
    if node.op_type == "Conv":
        return InputMoments(PatchGram.of(node, per_sample=_PER_SAMPLE))
    return None
