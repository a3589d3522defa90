"""What is generated, before it is text: tensors in buffers, and the calls of kernels between them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from whet.ir.array import Array

__all__ = ["Argument", "Buffer", "Grid", "Kernel", "Parameter", "Program", "Step", "Tensor"]


@dataclasses.dataclass(eq=False)
class Buffer:
    """Memory that one tensor, or several one after the other or reshaped, lie in."""

    name: str
    bytes: int
    place: str = "arena"
    """``arena``, ``constant``, or ``input`` and ``output``, which belong to the caller."""
    number: int = -1
    """Of the input, the output or the constant."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Integers stand for real numbers: x = scale (q - zero)."""

    scale: float
    zero: int
    dtype: np.dtype[np.generic]

    @property
    def limits(self) -> tuple[int, int]:
        """Return the smallest and the largest integer."""
        bits = 8 * self.dtype.itemsize
        return (
            (0, 2**bits - 1)
            if self.dtype.kind == "u"
            else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )


@dataclasses.dataclass(eq=False)
class Tensor:
    """Elements in the order of their shape, without gaps."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    buffer: Buffer
    array: Array | None = None
    """The elements of a constant."""

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def reshaped(self, shape: Sequence[int]) -> "Tensor":
        """Return the same elements under another shape."""
        array = None if self.array is None else self.array.reshape(shape)
        return Tensor(tuple(shape), self.dtype, self.buffer, array)


Argument = Tensor | str
"""A tensor, or a number as C spells it."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel and what is given for it; a pointer that is not ``const`` is written."""

    declaration: str
    """Such as ``const float *x``."""
    given: Argument
    offset: int = 0
    """Elements behind the tensor's beginning."""

    @property
    def written(self) -> bool:
        """Tell whether the kernel writes there."""
        return isinstance(self.given, Tensor) and not self.declaration.startswith("const ")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A function; kernels with the same text are one function."""

    hint: str
    """What it does, in a word: a part of its name."""
    declarations: tuple[str, ...]
    body: str
    fails: bool = False
    """Whether it returns an error number."""


@dataclasses.dataclass(eq=False)
class Step:
    """One kernel after the other, which belong together."""

    label: str
    """The nodes of the model that are computed."""
    calls: list[tuple[Kernel, tuple[Parameter, ...]]]
    reads: list[Buffer]
    writes: list[Buffer]
    scratch: list[Buffer] = dataclasses.field(default_factory=list[Buffer])
    in_place: tuple[Buffer, ...] = ()
    """Operands whose memory the result may take, element by element."""


@dataclasses.dataclass
class Program:
    """A whole model."""

    inputs: list[tuple[str, Tensor]]
    outputs: list[tuple[str, Tensor]]
    steps: list[Step]
    constants: list[tuple[str, Tensor]]
    """Those that steps read, with the names of the weights they come from."""
    grids: dict[str, Grid]
    """Output -> the grid that its values lie on."""
    integers: bool
    """Whether anything is computed on a grid, so that one step of a grid is the natural unit of error."""
    notes: list[str] = dataclasses.field(default_factory=list[str])
