"""Move elements: one loop nest with a stride for each axis on both sides covers transposes, slices, pads and more."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from whet.backends.c.forms import pointer
from whet.backends.c.operands import Operand
from whet.backends.c.program import Grid, Kernel, Parameter, Tensor
from whet.backends.c.spelling import c_type

__all__ = ["Strided", "copied", "copy", "filled", "real", "row_major", "terms", "transpose"]

Call = tuple[Kernel, Sequence[Parameter]]


@dataclasses.dataclass(frozen=True)
class Strided:
    """Places in a tensor: ``start + sum(i[k] strides[k])``, in elements."""

    tensor: Tensor
    strides: tuple[int, ...]
    start: int = 0


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def copy(shape: Sequence[int], source: Strided, result: Strided) -> Call:
    """Return a kernel for ``result[i] = source[i]`` for all i below ``shape``."""
    axes = _merged(
        [(n, a, b) for n, a, b in zip(shape, source.strides, result.strides, strict=True) if n != 1]
    )
    if (len(axes) == 1 and axes[0][1:] == (1, 1)) or not axes:
        count = axes[0][0] if axes else 1
        body = f"memcpy(y, x, {count} * sizeof *y);"
        if count == 1:
            body = "y[0] = x[0];"
    else:
        opens = [f"for (int i{k} = 0; i{k} < {n}; ++i{k}) {{" for k, (n, _, _) in enumerate(axes)]
        y = terms([b for _, _, b in axes])
        x = terms([a for _, a, _ in axes])
        body = "\n".join([*opens, f"y[{y}] = x[{x}];", *("}" for _ in axes)])
    parameters = [_at("x", source, written=False), _at("y", result, written=True)]
    kernel = Kernel("copy", tuple(p.declaration for p in parameters), body)
    return kernel, parameters


def transpose(tensor: Tensor, result: Tensor, axes: Sequence[int]) -> Call:
    """Return a kernel that puts axes into another order."""
    strides = row_major(tensor.shape)
    source = Strided(tensor, tuple(strides[a] for a in axes))
    return copy(result.shape, source, Strided(result, row_major(result.shape)))


def copied(tensor: Tensor, result: Tensor) -> Call:
    """Return a kernel that copies all elements."""
    return copy((tensor.size,), Strided(tensor, (1,)), Strided(result, (1,)))


def filled(result: Tensor, value: str) -> Call:
    """Return a kernel that sets all elements."""
    parameters = [
        pointer("y", result, written=True),
        Parameter(f"const {c_type(result.dtype)} value", value),
    ]
    body = f"for (int i = 0; i < {result.size}; ++i) {{\ny[i] = value;\n}}"
    return Kernel("fill", tuple(p.declaration for p in parameters), body), parameters


def real(tensor: Tensor, grid: Grid, result: Tensor) -> Call:
    """Return a kernel that reads integers as the real numbers they stand for."""
    operand = Operand("x", tensor, grid)
    parameters = [*operand.parameters, pointer("y", result, written=True)]
    body = f"for (int i = 0; i < {tensor.size}; ++i) {{\ny[i] = {operand.at('i')};\n}}"
    assert result.dtype == np.dtype(np.float32)
    return Kernel("dequantize", tuple(p.declaration for p in parameters), body), parameters


def _merged(axes: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join neighbours that one loop can walk through."""
    found: list[tuple[int, int, int]] = []
    for n, a, b in axes:
        if found and found[-1][1] == n * a and found[-1][2] == n * b:
            found[-1] = (found[-1][0] * n, a, b)
        else:
            found.append((n, a, b))
    return found


def terms(strides: Sequence[int], names: Sequence[str] | None = None) -> str:
    """Spell ``i0 * 12 + i1``."""
    words = names or [f"i{k}" for k in range(len(strides))]
    spelled = [
        name if stride == 1 else f"{name} * {stride}"
        for name, stride in zip(words, strides, strict=True)
        if stride
    ]
    return " + ".join(spelled).replace("+ -", "- ") or "0"


def _at(name: str, place: Strided, *, written: bool) -> Parameter:
    parameter = pointer(name, place.tensor, written=written)
    if not place.start:
        return parameter
    return dataclasses.replace(parameter, offset=place.start)
