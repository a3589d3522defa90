"""Execute small graphs in float64 where ONNX Runtime has float32 kernels only.

Convolutions and average pooling are computed here, in double precision; every other node runs in a session of its
own. This is an oracle for proofs, not a runtime: slow, exact to about 1e-15, and bounded in the work it accepts.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from whet.ir.execute import CannotRun, Executor
from whet.ir.values import Array

__all__ = ["WORK_LIMIT", "Float64Executor", "average_pool", "convolve", "convolve_transposed"]

WORK_LIMIT = 1_000_000_000
"""Multiplications that one node may take; about a second on one core; above it, proofs use float32."""

_CHUNK = 2_000_000
"""Elements of the matrix of windows that are written out at a time."""

Floats = NDArray[np.float64]
_Attributes = Mapping[str, object]


class Float64Executor:
    """Run a graph whose floating-point types are all float64, node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Accept models with a Conv, ConvTranspose or AveragePool; the rest are better run as a whole."""
        if not any(node.op_type in _KERNELS for node in model.graph.node):
            raise CannotRun("no node needs a float64 kernel of our own")
        self._model = model
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._sessions: dict[tuple[int, tuple[str, ...]], Executor] = {}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs; raises :class:`~whet.ir.execute.CannotRun`."""
        values: dict[str, Array] = {**self._constants, **feeds}
        for index, node in enumerate(self._model.graph.node):
            made = [name for name in node.output if name]
            values.update(zip(made, self._step(index, node, made, values), strict=True))
        return [values[name] for name in outputs]

    def _step(
        self, index: int, node: onnx.NodeProto, made: list[str], values: Mapping[str, Array]
    ) -> Sequence[Array]:
        kernel = _KERNELS.get(node.op_type) if node.domain == "" else None
        if kernel is None:
            feeds = {name: values[name] for name in node.input if name}
            return self._session(index, node, feeds).run(feeds, made)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name].astype(np.float64) for name in node.input if name]
        return [kernel(attributes, *inputs)]

    def _session(self, index: int, node: onnx.NodeProto, feeds: Mapping[str, Array]) -> Executor:
        key = (index, tuple(str(array.dtype) for array in feeds.values()))
        if key not in self._sessions:
            inputs = [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
                for name, array in feeds.items()
            ]
            outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = helper.make_graph([node], "step", inputs, outputs)
            self._sessions[key] = Executor(
                helper.make_model(
                    graph,
                    opset_imports=list(self._model.opset_import),
                    ir_version=self._model.ir_version,
                )
            )
        return self._sessions[key]


def convolve(
    x: Floats,
    w: Floats,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int,
) -> Floats:
    """Return ``y[n, m, p] = sum_c sum_tap w[m, c, tap] x[n, c, stride p + dilation tap - pad]``."""
    n, outputs, kernel = x.shape[0], w.shape[0], w.shape[2:]
    x = _padded(x, pads, 0.0)
    size = _windows(x.shape[2:], kernel, strides, dilations)
    _within_limit(n * math.prod(size) * w.size)
    seen = _columns(x, kernel, strides, dilations)
    seen = seen.reshape(n, group, -1, *seen.shape[2:])
    rows = w.reshape(group, outputs // group, -1)
    y = np.empty((n, group, outputs // group, *size))
    step = max(1, _CHUNK // (w[0].size * group * math.prod(size[1:])))
    rest = [slice(None)] * (len(size) - 1)
    for sample in range(n):
        for start in range(0, size[0], step):
            block = y[sample, :, :, start : start + step]
            part = seen[sample][(..., slice(start, start + step), *rest)]
            found = np.matmul(rows, part.reshape(group, rows.shape[2], -1))
            block[:] = found.reshape(block.shape)
    return y.reshape(n, outputs, *size)


def convolve_transposed(
    x: Floats,
    w: Floats,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    output_padding: Sequence[int],
    group: int,
) -> Floats:
    """Return the adjoint of :func:`convolve`: every input adds its kernel to the output."""
    n, size, kernel = x.shape[0], x.shape[2:], w.shape[2:]
    count = len(size)
    full = [(size[k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 for k in range(count)]
    room = [full[k] + output_padding[k] for k in range(count)]
    _within_limit(n * math.prod(size) * w.size)
    blocks = _taps_first(w.reshape(group, w.shape[0] // group, w.shape[1], *kernel)).swapaxes(
        -1, -2
    )
    seen = x.reshape(n, group, -1, math.prod(size))
    y = np.zeros((n, group * w.shape[1], *room))
    for tap, place in _taps(kernel, size, strides, dilations):
        part = np.matmul(blocks[tap], seen)
        y[:, :, *place] += part.reshape(n, -1, *size)
    ends = [room[k] - pads[count + k] for k in range(count)]
    return y[:, :, *(slice(pads[k], ends[k]) for k in range(count))]


def average_pool(
    x: Floats,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    count_include_pad: bool,
) -> Floats:
    """Return the mean over every window, of real elements only unless padding counts."""
    present = _padded(np.ones((1, 1, *x.shape[2:])), pads, float(count_include_pad))
    x = _padded(x, pads, 0.0)
    size = _windows(x.shape[2:], kernel, strides, dilations)
    total, number = np.zeros((*x.shape[:2], *size)), np.zeros((1, 1, *size))
    for _, place in _taps(kernel, size, strides, dilations):
        total += x[:, :, *place]
        number += present[:, :, *place]
    return total / number


def _taps_first(blocks: Floats) -> Floats:
    """Move the axes of the kernel before those of group, output and input."""
    return blocks.transpose(*range(3, blocks.ndim), 0, 1, 2)


def _padded(x: Floats, pads: Sequence[int], fill: float) -> Floats:
    count = len(pads) // 2
    if not any(pads):
        return x
    amounts = [(0, 0), (0, 0), *((pads[k], pads[count + k]) for k in range(count))]
    return np.pad(x, amounts, constant_values=fill)


def _columns(
    x: Floats, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Floats:
    """Return a view ``[n, channel, *kernel, *place]`` of what every window sees."""
    count = len(kernel)
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=tuple(range(2, 2 + count)))
    places = tuple(slice(None, None, s) for s in strides)
    view = view[(slice(None), slice(None), *places, *(slice(None, None, d) for d in dilations))]
    taps, spots = range(2 + count, 2 + 2 * count), range(2, 2 + count)
    return view.transpose(0, 1, *taps, *spots)


def _windows(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    found = tuple(
        (extent - (k - 1) * d - 1) // s + 1
        for extent, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    )
    if min(found, default=1) < 1:
        raise CannotRun("the kernel is larger than its input")
    return found


def _taps(
    kernel: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each tap with the elements it sees, or writes, for all windows at once."""
    for tap in itertools.product(*(range(k) for k in kernel)):
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        yield (
            tap,
            tuple(
                slice(a, a + (n - 1) * s + 1, s)
                for a, n, s in zip(starts, size, strides, strict=True)
            ),
        )


def _within_limit(work: int) -> None:
    if work > WORK_LIMIT:
        raise CannotRun(f"{work} multiplications are too many for the float64 oracle")


def _ints(attributes: _Attributes, name: str, default: Sequence[int]) -> list[int]:
    found = attributes.get(name, default)
    if not isinstance(found, Sequence) or not found:
        return list(default)
    return [int(str(item)) for item in found]


def _int(attributes: _Attributes, name: str, default: int) -> int:
    return int(str(attributes.get(name, default)))


def _grid(attributes: _Attributes, count: int) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads; automatic padding is refused."""
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID"):
        raise CannotRun("automatic padding has no float64 kernel")
    ones, none = [1] * count, [0] * (2 * count)
    pads = none if automatic == b"VALID" else _ints(attributes, "pads", none)
    return _ints(attributes, "strides", ones), _ints(attributes, "dilations", ones), pads


def _with_bias(y: Floats, bias: Sequence[Floats]) -> Floats:
    return y + bias[0].reshape(-1, *[1] * (y.ndim - 2)) if bias else y


def _conv(attributes: _Attributes, x: Floats, w: Floats, *bias: Floats) -> Floats:
    strides, dilations, pads = _grid(attributes, w.ndim - 2)
    group = _int(attributes, "group", 1)
    y = convolve(x, w, strides=strides, dilations=dilations, pads=pads, group=group)
    return _with_bias(y, bias)


def _conv_transpose(attributes: _Attributes, x: Floats, w: Floats, *bias: Floats) -> Floats:
    if "output_shape" in attributes:
        raise CannotRun("output_shape has no float64 kernel")
    count = w.ndim - 2
    strides, dilations, pads = _grid(attributes, count)
    y = convolve_transposed(
        x,
        w,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=_ints(attributes, "output_padding", [0] * count),
        group=_int(attributes, "group", 1),
    )
    return _with_bias(y, bias)


def _average_pool(attributes: _Attributes, x: Floats, *_: Floats) -> Floats:
    if _int(attributes, "ceil_mode", 0):
        raise CannotRun("ceil_mode has no float64 kernel")
    kernel = _ints(attributes, "kernel_shape", [])
    strides, dilations, pads = _grid(attributes, len(kernel))
    counted = bool(_int(attributes, "count_include_pad", 0))
    return average_pool(
        x,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        count_include_pad=counted,
    )


_KERNELS: dict[str, Callable[..., Floats]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _average_pool,
}
