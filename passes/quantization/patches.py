"""What a product sees of its input: mean and Gram matrix of the vectors that its weights are multiplied with.

For a convolution these are the patches under its kernel, by group; for a matrix product the rows of its input.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir

from whet.analysis.statistics import Accumulator, Statistic
from whet.ir.values import Array, attribute_int, attribute_ints, attribute_string
from whet.passes.quantization.approximation import Doubles, Floats

__all__ = ["Moments", "PatchMoments", "Seen", "moments_of"]

_ROWS = 8192
"""Vectors taken of one batch, evenly spread over it."""
_HELD = 4
"""Every so many batches one is held out."""


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
    """Moments by group, of the batches to fit on and of those held out to judge by."""

    fit: tuple[Moments, ...]
    held: tuple[Moments, ...]


@dataclasses.dataclass(frozen=True)
class PatchMoments(Statistic[Seen]):
    """Ask for the moments of what a kernel covers; without a kernel, of vectors along the last axis."""

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1

    def start(self) -> Accumulator[Seen]:
        """Return sums of nothing."""
        return _Sums(self)

    def vectors(self, array: Array) -> Floats:
        """Return ``[groups, count, inputs]``."""
        if not self.kernel:
            return np.asarray(array.reshape(1, -1, array.shape[-1]), np.float32)
        rank = len(self.kernel)
        ends = zip(self.pads[:rank], self.pads[rank:], strict=True)
        padded = np.pad(array, [(0, 0), (0, 0), *ends])
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        axes = tuple(range(2, 2 + rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
        steps = tuple(slice(None, None, s) for s in self.strides)
        inner = tuple(slice(None, None, d) for d in self.dilations)
        windows = windows[(slice(None), slice(None), *steps, *inner)]
        places = np.moveaxis(windows, 1, 1 + rank)
        count = int(np.prod(places.shape[: 1 + rank]))
        chosen = np.unravel_index(_spread(count), places.shape[: 1 + rank])
        rows = places[chosen]
        grouped = rows.reshape(len(rows), self.groups, -1)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2), np.float32)


def _spread(count: int) -> Array:
    """Return evenly spread numbers below ``count``, as many as are taken of a batch."""
    return np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(np.int64))


class _Sums(Accumulator[Seen]):
    def __init__(self, asked: PatchMoments) -> None:
        self._asked = asked
        self._batches = 0
        self._sums: dict[bool, tuple[Doubles, Doubles, int]] = {}

    def add(self, array: Array) -> None:
        vectors = self._asked.vectors(array)
        if not self._asked.kernel:
            vectors = vectors[:, _spread(vectors.shape[1])]
        held = self._batches % _HELD == _HELD - 1
        self._batches += 1
        first = np.sum(vectors, 1, dtype=np.float64)
        second = np.asarray(vectors.transpose(0, 2, 1) @ vectors, np.float64)
        old = self._sums.get(held)
        if old is not None:
            first, second = first + old[0], second + old[1]
        self._sums[held] = (first, second, vectors.shape[1] + (0 if old is None else old[2]))

    def result(self) -> Seen:
        fit = self._moments(held=False)
        return Seen(fit, self._moments(held=True) if True in self._sums else fit)

    def _moments(self, *, held: bool) -> tuple[Moments, ...]:
        first, second, count = self._sums[held]
        return tuple(Moments(a / count, b / count) for a, b in zip(first, second, strict=True))


def moments_of(node: onnx_ir.Node, weights_shape: tuple[int, ...]) -> PatchMoments | None:
    """Return what to ask for, or None where the products of a node are not those of vectors it reads."""
    if node.op_type in ("MatMul", "Gemm"):
        return PatchMoments()
    if node.op_type != "Conv":
        return None
    kernel = weights_shape[2:]
    ones = (1,) * len(kernel)
    if attribute_string(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    found: Mapping[str, tuple[int, ...]] = {
        name: attribute_ints(node, name, default) or default
        for name, default in (
            ("strides", ones),
            ("dilations", ones),
            ("pads", (0,) * 2 * len(kernel)),
        )
    }
    return PatchMoments(kernel=kernel, groups=attribute_int(node, "group", 1), **found)
