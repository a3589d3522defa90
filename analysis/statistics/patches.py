"""Gram matrices of what a convolution multiplies its weights with: patches of its input."""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import onnx_ir
from numpy.lib.stride_tricks import sliding_window_view

from whet.analysis.statistics.base import Accumulator, Statistic, thin
from whet.analysis.statistics.grams import GramMatrix, GramSum
from whet.ir.values import Array, attribute_int, attribute_ints, attribute_string, static_shape

__all__ = ["PatchGram", "patches"]

Grams = tuple[GramMatrix, ...]
_BLOCK_BYTES = 1 << 25


@dataclasses.dataclass(frozen=True)
class PatchGram(Statistic[Grams]):
    """One Gram matrix for each group of a convolution; vectors are in the order of its weights.

    With weights ``[outputs, channels / group, *kernel]``, group g computes ``weights.reshape(outputs, -1) @ x`` for
    its share of the outputs, and x are the vectors of matrix g.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    """Zeros before each spatial axis, then behind each."""
    dilations: tuple[int, ...] = ()
    group: int = 1
    auto_pad: str = "NOTSET"
    exact: bool = True
    """Multiply in float64; otherwise in float32 with float64 between blocks."""
    per_sample: int = 0
    """Use about so many places, evenly spaced, of each sample; 0 uses all."""

    @classmethod
    def of(cls, node: onnx_ir.Node, *, exact: bool = True, per_sample: int = 0) -> Self:
        """Return the statistic of the first input that belongs to a Conv with a fixed weight."""
        shape = static_shape(node.inputs[1])
        assert shape is not None, f"the weight of '{node.name}' has no fixed shape"
        return cls(
            kernel=shape[2:],
            strides=attribute_ints(node, "strides") or (),
            pads=attribute_ints(node, "pads") or (),
            dilations=attribute_ints(node, "dilations") or (),
            group=attribute_int(node, "group", 1),
            auto_pad=attribute_string(node, "auto_pad", "NOTSET"),
            exact=exact,
            per_sample=per_sample,
        )

    def start(self) -> Accumulator[Grams]:
        """Return a sum of outer products for each group."""
        return _Patches(self)


class _Patches(Accumulator[Grams]):
    notices: ClassVar[bool] = True

    def __init__(self, options: PatchGram) -> None:
        self._options = options
        self._sums = [GramSum(exact=options.exact) for _ in range(options.group)]

    def add(self, array: Array) -> None:
        for block in _blocks(array, self._options):
            for total, rows in zip(self._sums, patches(block, self._options), strict=True):
                total.add(rows)

    def result(self) -> Grams:
        return tuple(total.mean() for total in self._sums)


def patches(array: Array, options: PatchGram) -> Iterator[Array]:
    """Yield for each group the patches of ``[samples, channels, *spatial]``, ``[places, channels / group * kernel]``."""
    rank = len(options.kernel)
    strides, dilations = options.strides or (1,) * rank, options.dilations or (1,) * rank
    spans = tuple((k - 1) * d + 1 for k, d in zip(options.kernel, dilations, strict=True))
    pads = _pads(array.shape[2:], spans, strides, options)
    padded = np.pad(array, ((0, 0), (0, 0), *pads))
    windows = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    every = (slice(None), slice(None))
    windows = windows[(*every, *(slice(None, None, s) for s in strides))]
    windows = windows[(*every, *every[:1] * rank, *(slice(None, None, d) for d in dilations))]
    size = array.shape[1] // options.group
    places = windows.shape[2 : 2 + rank]
    step = thin(math.prod(places), options.per_sample)
    for group in range(options.group):
        yield _rows(windows[:, group * size : (group + 1) * size], places, step)


def _rows(windows: Array, places: tuple[int, ...], step: int) -> Array:
    """Return ``[samples * places, channels * kernel]`` from ``[samples, channels, *places, *kernel]``."""
    rank = len(places)
    if step > 1:
        chosen = np.unravel_index(np.arange(0, math.prod(places), step), places)
        windows = windows[(slice(None), slice(None), *chosen)]
        places, rank = (windows.shape[2],), 1
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, windows.ndim))
    width = windows.shape[1] * math.prod(windows.shape[2 + rank :])
    return windows.transpose(order).reshape(len(windows) * math.prod(places), width)


def _pads(
    sizes: tuple[int, ...], spans: tuple[int, ...], strides: tuple[int, ...], options: PatchGram
) -> list[tuple[int, int]]:
    rank = len(sizes)
    if options.auto_pad in {"NOTSET", ""} and options.pads:
        return list(zip(options.pads[:rank], options.pads[rank:], strict=True))
    if not options.auto_pad.startswith("SAME"):
        return [(0, 0)] * rank
    found: list[tuple[int, int]] = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        whole = max((-(-size // stride) - 1) * stride + span - size, 0)
        less, more = whole // 2, whole - whole // 2
        found.append((less, more) if options.auto_pad == "SAME_UPPER" else (more, less))
    return found


def _blocks(array: Array, options: PatchGram) -> Iterator[Array]:
    """Cut a batch so that the patches of a part take a few megabytes."""
    places = math.prod(array.shape[2:]) // math.prod(options.strides or (1,))
    if options.per_sample:
        places = min(places, options.per_sample)
    width = array.shape[1] // options.group * math.prod(options.kernel)
    step = max(1, _BLOCK_BYTES // max(1, places * width * array.dtype.itemsize))
    for start in range(0, len(array), step):
        yield array[start : start + step]
