"""How a kernel reads an operand as real numbers, and how it writes its result."""

import dataclasses

import numpy as np
import onnx_ir

from whet.backends.c.activations import Bounds, activation, bounds
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.program import Grid, Parameter, Tensor
from whet.backends.c.registry import Decline
from whet.backends.c.spelling import c_type, floating
from whet.backends.layouts import LAST, PLAIN, Layout
from whet.ir.values import attribute_int

__all__ = ["Operand", "Sink", "operand", "read_grid", "sink"]


@dataclasses.dataclass(frozen=True)
class Operand:
    """Real numbers, or integers of a grid that are read as such."""

    name: str
    tensor: Tensor
    grid: Grid | None = None

    @property
    def parameters(self) -> list[Parameter]:
        """Return what the kernel is given."""
        found = [pointer(self.name, self.tensor)]
        if self.grid is not None:
            found.append(Parameter(f"const float {self.name}_scale", floating(self.grid.scale)))
            if self.grid.zero:
                found.append(Parameter(f"const int {self.name}_zero", str(self.grid.zero)))
        return found

    def at(self, index: str) -> str:
        """Return the number at an index."""
        text = f"{self.name}[{index}]"
        if self.grid is None:
            return text
        return f"(float){self.codes(index)} * {self.name}_scale"

    def codes(self, index: str) -> str:
        """Return the integer at an index, relative to zero."""
        text = f"{self.name}[{index}]"
        return f"({text} - {self.name}_zero)" if self.grid is not None and self.grid.zero else text


def operand(
    low: Lowering, name: str, value: onnx_ir.Value | None, layout: Layout = PLAIN
) -> Operand:
    """Return a value of the model as a float operand; raises Decline for other types."""
    form = low.form(value)
    tensor = low.laid_out(form, layout)
    if form.grid is None and tensor.dtype != np.float32:
        raise Decline(
            f"operand '{value.name if value else name}' is {tensor.dtype}, only float32 is supported"
        )
    return Operand(name, tensor, form.grid)


@dataclasses.dataclass
class Sink:
    """Where a kernel's result goes: activations and a QuantizeLinear behind the node are part of the kernel."""

    low: Lowering
    value: onnx_ir.Value
    """The last value of the chain that is computed here."""
    steps: tuple[str, ...]
    """Statements on ``v``."""
    bounds: Bounds | None
    """What the activations come down to, if they only cut off."""
    grid: Grid | None
    tensor: Tensor
    layout: Layout

    @property
    def parameters(self) -> list[Parameter]:
        """Return what the kernel is given to write its result with."""
        found = [pointer("y", self.tensor, written=True)]
        if self.grid is None:
            return found
        found.append(Parameter("const float y_scale", floating(self.grid.scale)))
        if self.grid.zero:
            found.append(Parameter("const int y_zero", str(self.grid.zero)))
        return found

    def lines(self, index: str) -> str:
        """Return the statements that finish ``v`` and store it."""
        if self.grid is None:
            return "\n".join([*self.steps, f"y[{index}] = v;"])
        low, high = self.grid.limits
        low, high = low - self.grid.zero, high - self.grid.zero
        rounded = f"nearest(v / y_scale, {floating(low)}, {floating(high)})"
        return "\n".join([*self.steps, f"y[{index}] = {self.cast(rounded)};"])

    def cast(self, rounded: str) -> str:
        """Return an integer of the grid from one that is relative to zero."""
        assert self.grid is not None
        shifted = f"{rounded} + y_zero" if self.grid.zero else rounded
        return f"({c_type(self.grid.dtype)})({shifted})"

    def finish(self) -> None:
        """Say that the value is there."""
        self.low.define(self.value, self.tensor, self.layout)


def sink(low: Lowering, node: onnx_ir.Node, layout: Layout = PLAIN, *, fuse: bool = True) -> Sink:
    """Follow what is behind a node as long as nobody else reads it; the nodes on the way are done."""
    value = node.outputs[0]
    steps: list[str] = []
    cut: Bounds | None = Bounds()
    grid: Grid | None = None
    while fuse:
        reader = low.sole_reader(value)
        if reader is None or reader.inputs[0] is not value:
            break
        grid = read_grid(low, reader) if reader.op_type == "QuantizeLinear" else None
        more = None if grid is not None else activation(low, reader)
        if grid is None and more is None:
            break
        low.done.add(reader)
        value = reader.outputs[0]
        if grid is not None:
            break
        assert more is not None
        steps += more
        limit = bounds(low, reader)
        cut = None if cut is None or limit is None else cut.then(limit)
    shape = low.shape(value)
    if layout == LAST:
        shape = (shape[0], *shape[2:], shape[1])
    dtype = np.dtype(np.float32) if grid is None else grid.dtype
    return Sink(low, value, tuple(steps), cut, grid, low.make(shape, dtype), layout)


def read_grid(low: Lowering, node: onnx_ir.Node) -> Grid | None:
    """Return the grid of a QuantizeLinear or DequantizeLinear with one fixed scale and integers of 8 or 16 bits."""
    scale = low.known(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = low.known(given)
    if scale is None or scale.size != 1 or scale.dtype != np.float32:
        return None
    if given is not None and (zero is None or zero.size != 1):
        return None
    kind = _integers(low, node)
    if kind.name not in {"int8", "uint8", "int16", "uint16"} or attribute_int(
        node, "block_size", 0
    ):
        return None
    number = 0 if zero is None else int(zero.reshape(-1)[0])
    step = float(scale.reshape(-1)[0])
    return Grid(step, number, kind) if step > 0 else None


def _integers(low: Lowering, node: onnx_ir.Node) -> np.dtype[np.generic]:
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    assert value is not None
    return low.dtype(value)
