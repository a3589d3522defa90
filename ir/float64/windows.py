"""Convolutions and pooling in double precision."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from whet.ir.execute import CannotRun
from whet.ir.float64.kernel import (
    Attributes,
    Floats,
    Kernel,
    floats,
    integer,
    integers,
    within_limit,
)

__all__ = ["WINDOWS", "average_pool", "convolve", "convolve_transposed"]

_CHUNK = 2_000_000
"""Elements of the matrix of windows that are written out at a time."""


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
    within_limit(n * math.prod(size) * w.size)
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
    within_limit(n * math.prod(size) * w.size)
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


def _grid(attributes: Attributes, count: int) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads; automatic padding is refused."""
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID"):
        raise CannotRun("automatic padding has no float64 kernel")
    ones, none = [1] * count, [0] * (2 * count)
    pads = none if automatic == b"VALID" else integers(attributes, "pads", none)
    return integers(attributes, "strides", ones), integers(attributes, "dilations", ones), pads


def _with_bias(y: Floats, bias: Floats | None) -> Floats:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def _conv(attributes: Attributes, *inputs: Floats | None) -> tuple[Floats, ...]:
    """Compute Conv."""
    x, w, bias = floats(inputs, 3)
    assert x is not None
    assert w is not None
    strides, dilations, pads = _grid(attributes, w.ndim - 2)
    group = integer(attributes, "group", 1)
    y = convolve(x, w, strides=strides, dilations=dilations, pads=pads, group=group)
    return (_with_bias(y, bias),)


def _fused_conv(attributes: Attributes, *inputs: Floats | None) -> tuple[Floats, ...]:
    """Compute com.microsoft's FusedConv: ``activation(Conv(x, w, b) + z)``."""
    x, w, bias, z = floats(inputs, 4)
    (y,) = _conv(attributes, x, w, bias)
    activation = attributes.get("activation", b"")
    name = activation.decode() if isinstance(activation, bytes) else str(activation)
    return (_activated(y if z is None else y + z, name, attributes),)


def _activated(y: Floats, name: str, attributes: Attributes) -> Floats:
    given = attributes.get("activation_params", ())
    parameters = [float(str(p)) for p in given] if isinstance(given, Sequence) else []
    if name == "":
        return y
    if name == "Relu":
        return np.maximum(y, 0)
    if name == "Tanh":
        return np.tanh(y)
    if name == "Sigmoid":
        return 1 / (1 + np.exp(-y))
    if name == "LeakyRelu":
        return np.where(y < 0, y * (parameters[0] if parameters else 0.01), y)
    if name == "Clip" and len(parameters) == 2:
        return np.clip(y, parameters[0], parameters[1])
    if name == "HardSigmoid" and len(parameters) == 2:
        return np.clip(parameters[0] * y + parameters[1], 0, 1)
    raise CannotRun(f"activation '{name}' of FusedConv has no float64 kernel")


def _conv_transpose(attributes: Attributes, *inputs: Floats | None) -> tuple[Floats, ...]:
    """Compute ConvTranspose."""
    if "output_shape" in attributes:
        raise CannotRun("output_shape has no float64 kernel")
    x, w, bias = floats(inputs, 3)
    assert x is not None
    assert w is not None
    count = w.ndim - 2
    strides, dilations, pads = _grid(attributes, count)
    y = convolve_transposed(
        x,
        w,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=integers(attributes, "output_padding", [0] * count),
        group=integer(attributes, "group", 1),
    )
    return (_with_bias(y, bias),)


def _average_pool(attributes: Attributes, *inputs: Floats | None) -> tuple[Floats, ...]:
    """Compute AveragePool."""
    if integer(attributes, "ceil_mode", 0):
        raise CannotRun("ceil_mode has no float64 kernel")
    (x,) = floats(inputs, 1)
    assert x is not None
    kernel = integers(attributes, "kernel_shape", [])
    strides, dilations, pads = _grid(attributes, len(kernel))
    y = average_pool(
        x,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        count_include_pad=bool(integer(attributes, "count_include_pad", 0)),
    )
    return (y,)


WINDOWS: Mapping[tuple[str, str], Kernel] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "AveragePool"): _average_pool,
    ("com.microsoft", "FusedConv"): _fused_conv,
}
