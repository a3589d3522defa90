"""What follows the sums of a product: scales, bias, activations, rounding to a grid.

A sum of integers stands for ``v = acc m[c] + b[c]``, with m the product of both scales. With nothing but cuts between
it and a QuantizeLinear of scale s, m and b are divided by s beforehand, and one multiplication a result is left.
"""

import dataclasses
import math

import numpy as np

from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import Sink
from whet.backends.c.program import Parameter
from whet.backends.c.spelling import floating
from whet.ir.array import Array

__all__ = ["Epilogue", "make_epilogue"]

_LARGEST = float(1 << 22)
"""Beyond this, adding 1.5 * 2**23 does not round to an integer any more."""


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """Parameters of the kernel, and the statements from a sum ``acc`` of output ``c`` to ``y[index]``."""

    parameters: tuple[Parameter, ...]
    value: str
    """``v`` from ``{acc}`` and ``{c}``."""
    store: str
    """With ``{index}``."""

    def lines(self, acc: str, c: str, index: str) -> str:
        """Return the statements."""
        head = f"float v = {self.value.format(acc=acc, c=c)};"
        return "\n".join([head, self.store.replace("{index}", index)])


def make_epilogue(
    low: Lowering, sink: Sink, scale: Array | None, bias: Array | None, *, label: str
) -> Epilogue:
    """Return what follows sums; ``scale`` and ``bias`` have one element for each output, or are None.

    Without a scale the sums are floats that begin with the bias themselves.
    """
    folded = scale is not None and sink.grid is not None and sink.bounds is not None
    step = sink.grid.scale if folded and sink.grid is not None else 1.0
    parameters: list[Parameter] = []
    value = "{acc}"
    if scale is not None:
        m = (scale.astype(np.float64) / step).astype(np.float32)
        value = f"(float){{acc}} * {_numbers(low, parameters, 'm', m, f'scales of {label}')}"
    if scale is not None and bias is not None and bias.any():
        b = (bias.astype(np.float64) / step).astype(np.float32)
        value += f" + {_numbers(low, parameters, 'b', b, f'bias of {label}')}"
    if not folded:
        return Epilogue((*parameters, *sink.parameters), value, sink.lines("{index}"))
    return _folded(parameters, value, sink)


def _folded(parameters: list[Parameter], value: str, sink: Sink) -> Epilogue:
    grid, cut = sink.grid, sink.bounds
    assert grid is not None
    assert cut is not None
    first, last = (n - grid.zero for n in grid.limits)
    least = min(max(first, _bounded(cut.low / grid.scale)), last)
    most = max(min(last, _bounded(cut.high / grid.scale)), least)
    parameters += [pointer("y", sink.tensor, written=True)]
    parameters += [
        Parameter("const float y_low", floating(least)),
        Parameter("const float y_high", floating(most)),
    ]
    if grid.zero:
        parameters.append(Parameter("const int y_zero", str(grid.zero)))
    store = f"y[{{index}}] = {sink.cast('nearest(v, y_low, y_high)')};"
    return Epilogue(tuple(parameters), value, store)


def _bounded(number: float) -> float:
    return math.copysign(min(abs(number), _LARGEST), number)


def _numbers(
    low: Lowering, parameters: list[Parameter], name: str, numbers: Array, label: str
) -> str:
    """Add a parameter for numbers by output; equal ones are one number."""
    if (numbers == numbers[0]).all():
        parameters.append(Parameter(f"const float {name}", floating(float(numbers[0]))))
        return name
    parameters.append(pointer(name, low.constant(numbers, label)))
    return f"{name}[{{c}}]"
